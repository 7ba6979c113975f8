"""Opens pictures: PNG, JPEG and WebP, upright, in RGB; what is broken or huge is refused in one line."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlx_loopai.errors import InputError, install_command
from mlx_loopai.language import tr
from mlx_loopai.models.vision.patches import Grid, patches_of, resized
from mlx_loopai.models.vision.settings import PatchSettings

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP")
# Limits of a file, and of a picture before it is decoded. A phone's photograph of 50 million pixels decodes to 150 MB.
MOST_BYTES = 64 << 20
MOST_SOURCE_PIXELS = 64_000_000
_ANIMATED = ("PNG", "WEBP")
# A picture within JSON, as browsers and OpenAI's API write one.
_DATA_URL = re.compile(r"data:image/(?:png|jpeg|jpg|webp);base64,", re.IGNORECASE)
# EXIF's tag of the orientation, and its values for a turn by 90 degrees, which swaps width and height.
_ORIENTATION, _QUARTER_TURNS = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True)
class Picture:
    """A picture to show to a model: a file, or bytes that came with a request. `name` names it in errors."""

    name: str
    path: Path | None = None
    data: bytes | None = None

    @property
    def content(self) -> bytes:
        """Its bytes. Raises: InputError when there is no such file, or it is too large."""
        if self.data is not None:
            return self.data
        assert self.path is not None
        if not self.path.is_file():
            raise InputError(tr("{path}: no such picture; give a PNG, JPEG or WebP file", path=self.name))
        size = self.path.stat().st_size
        if size > MOST_BYTES:
            most = MOST_BYTES >> 20
            raise InputError(
                tr(
                    "{path}: a file of {size} MiB; pictures have at most {most}",
                    path=self.name,
                    size=size >> 20,
                    most=most,
                )
            )
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise InputError(tr("{path}: cannot be read ({error})", path=self.name, error=error.strerror)) from None

    @cached_property
    def digest(self) -> str:
        """Hash of its bytes."""
        return hashlib.sha256(self.content).hexdigest()


def is_data_url(text: str) -> bool:
    """Whether `text` begins as the data URL of a PNG, JPEG or WebP picture in base64."""
    return _DATA_URL.match(text) is not None


def picture_of_url(url: str, name: str) -> Picture:
    """The picture that a data URL holds; `name` names it in errors. Raises: InputError for one that is not base64."""
    try:
        return Picture(name, data=base64.b64decode(url.partition(",")[2], validate=True))
    except ValueError:
        raise InputError(tr("{name}: not in base64; write data:image/png;base64,...", name=name)) from None


def picture_in(folder: Path, name: str) -> Picture:
    """The picture that a row in a file of `folder` names, or holds as a data URL.

    Raises: InputError for one that is not within the folder.
    """
    if is_data_url(name):
        return picture_of_url(name, tr("a picture within the row"))
    place = folder / name
    if Path(name).is_absolute() or not place.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            tr(
                "picture {name!r:.120} lies outside of {folder}; name it relative to the file, inside its folder",
                name=name,
                folder=folder,
            )
        )
    if not place.is_file():
        raise InputError(tr("picture {name!r:.120}: there is no such file in {folder}", name=name, folder=folder))
    return Picture(str(place), place)


def given_picture(path: Path | str) -> Picture:
    """A picture that a person names. Raises: InputError when there is none."""
    try:
        place = Path(path).expanduser()
    except RuntimeError:  # ~name of a user that this machine does not have
        place = Path(path)
    if not place.is_file():
        raise InputError(tr("{path}: no such picture; give a PNG, JPEG or WebP file", path=path))
    return Picture(str(path), place)


def picture_size(picture: Picture) -> tuple[int, int]:
    """(height, width) as it is shown. Raises: InputError as `picture_patches`, as far as the file has to be read."""
    with _opened(picture) as image:
        try:
            turned = image.getexif().get(_ORIENTATION) in _QUARTER_TURNS
        # Decoders of damaged files raise whatever they come upon. A PNG's EXIF data may lie behind its pixels.
        except Exception:
            raise InputError(
                tr("{path}: the picture is damaged or not whole; save it again", path=picture.name)
            ) from None
        return (image.width, image.height) if turned else (image.height, image.width)


def picture_patches(picture: Picture, settings: PatchSettings, max_pixels: int) -> tuple[npt.NDArray[np.float32], Grid]:
    """(the patches that a vision tower reads, their grid). max_pixels: largest area, to which a picture is scaled down.

    Raises: InputError for a file that is not a whole picture of a kind that is read.
    """
    with _opened(picture) as image:
        upright = _upright(image, picture.name)
        size = _size_for(upright.height, upright.width, settings, max_pixels, picture)
        return patches_of(_resized(upright, *size), settings)


def patch_grid(picture: Picture, settings: PatchSettings, max_pixels: int) -> Grid:
    """The grid that `picture_patches` will give. Raises: InputError as `picture_size`."""
    height, width = _size_for(*picture_size(picture), settings, max_pixels, picture)
    return Grid(height // settings.patch, width // settings.patch, settings.merge)


def square_pixels(picture: Picture, side: int) -> npt.NDArray[np.uint8]:
    """The whole picture as `side` x `side` pixels (H, W, 3). Raises: InputError as `picture_patches`."""
    with _opened(picture) as image:
        return _resized(_upright(image, picture.name), side, side)


def _size_for(height: int, width: int, settings: PatchSettings, max_pixels: int, picture: Picture) -> tuple[int, int]:
    limit = max(settings.min_pixels, min(settings.max_pixels, max_pixels))
    try:
        return resized(height, width, replace(settings, max_pixels=limit))
    except InputError as error:
        raise InputError(f"{picture.name}: {error}") from None


@contextmanager
def _opened(picture: Picture) -> Iterator[Image]:
    """The picture, opened and not decoded yet. Raises: InputError for no picture, or a huge or animated one."""
    image_module = _pillow()
    content = picture.content
    try:
        with warnings.catch_warnings():
            # Pillow only warns of huge pictures; they are refused below.
            warnings.simplefilter("ignore")
            image = image_module.open(io.BytesIO(content), formats=FORMATS)
    except image_module.DecompressionBombError:
        raise InputError(_too_large(picture.name, tr("more pixels than any camera takes"))) from None
    # Decoders of damaged files raise whatever they come upon.
    except Exception:
        raise InputError(
            tr("{path}: not a picture that can be read; give a PNG, JPEG or WebP file", path=picture.name)
        ) from None
    with image:
        if image.width * image.height > MOST_SOURCE_PIXELS:
            sides = tr("{width} x {height} pixels", width=image.width, height=image.height)
            raise InputError(_too_large(picture.name, sides))
        if image.format in _ANIMATED and getattr(image, "n_frames", 1) > 1:
            frames = image.n_frames
            raise InputError(
                tr(
                    "{path}: an animated picture of {frames} frames; give a single one",
                    path=picture.name,
                    frames=frames,
                )
            )
        if image.mode.startswith(("I", "F")):
            raise InputError(tr("{path}: more than 8 bits a colour; save it with 8", path=picture.name))
        yield image


def _too_large(name: str, what: str) -> str:
    return tr(
        "{path}: {what}, more than the {most} million that are decoded; make it smaller",
        path=name,
        what=what,
        most=MOST_SOURCE_PIXELS // 1_000_000,
    )


def _upright(image: Image, name: str) -> Image:
    """The decoded picture in RGB, rotated by its EXIF data; transparent parts become white, as in Qwen's programs."""
    image_module = _pillow()
    from PIL import ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            turned = ImageOps.exif_transpose(image)
            if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
                coloured = turned.convert("RGBA")
                white = image_module.new("RGBA", coloured.size, "white")
                return image_module.alpha_composite(white, coloured).convert("RGB")
            return turned.convert("RGB")
    # Decoders of damaged files raise whatever they come upon.
    except Exception:
        raise InputError(tr("{path}: the picture is damaged or not whole; save it again", path=name)) from None


def _resized(image: Image, height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.asarray(image.resize((width, height), _pillow().Resampling.BICUBIC))


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise InputError(tr("pictures need Pillow: {command}", command=install_command("vision"))) from None
    return Image
