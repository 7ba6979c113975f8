"""Pictures: what is opened, how it is turned and scaled, and what is refused in one line."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlx_loopai.data.images import Picture, given_picture, patch_grid, picture_in, picture_patches, picture_size
from mlx_loopai.errors import InputError
from mlx_loopai.models.vision.settings import PatchSettings

SETTINGS = PatchSettings(
    patch=4, frames=2, merge=2, mean=(0.0,) * 3, deviation=(1.0,) * 3, min_pixels=64, max_pixels=4096
)
MOST = 4096


def drawn(height: int = 16, width: int = 24) -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def seen(content: bytes) -> np.ndarray:
    """The picture's pixels again, from its patches."""
    patches, grid = picture_patches(Picture("p", data=content), SETTINGS, MOST)
    shaped = patches.reshape(grid.feature_rows, grid.feature_columns, 2, 2, 3, 2, 4, 4)[:, :, :, :, :, 0]
    return (shaped.transpose(0, 2, 5, 1, 3, 6, 4).reshape(grid.rows * 4, grid.columns * 4, 3) * 255).round()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_whole_picture_is_read_as_it_is(kind: str) -> None:
    assert np.array_equal(seen(saved(drawn(), kind, lossless=True)), np.asarray(drawn()))


def test_a_jpeg_is_read() -> None:
    assert np.abs(seen(saved(Image.new("RGB", (24, 16), (200, 30, 40)), "JPEG")) - [200, 30, 40]).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_as_its_exif_data_say(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }
    content = saved(drawn(), exif=exif)
    expected = turns[orientation](np.asarray(drawn()))
    assert np.array_equal(seen(content), expected)
    picture = Picture("p", data=content)
    assert picture_size(picture) == expected.shape[:2]
    assert patch_grid(picture, SETTINGS, MOST) == picture_patches(picture, SETTINGS, MOST)[1]


def test_what_is_transparent_is_white() -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 8, 16))
    found = seen(saved(image))
    assert found[0, 0].tolist() == [0, 0, 255]
    assert found[0, 15].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK"])
def test_every_usual_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert seen(saved(Image.new("RGB", (16, 16), "white").convert(mode), kind)).min() >= 250


def test_more_pixels_than_allowed_are_made_fewer() -> None:
    picture = Picture("p", data=saved(Image.new("RGB", (400, 300), "red")))
    patches, grid = picture_patches(picture, SETTINGS, 1024)
    assert grid.rows * grid.columns * 16 <= 1024
    assert len(patches) == grid.rows * grid.columns
    assert grid == patch_grid(picture, SETTINGS, 1024)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def animated(kind: str) -> bytes:
    frames = [drawn(), Image.new("RGB", (24, 16), "red")]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


HOSTILE = {
    "header of 50,000 x 50,000": (png(50_000, 50_000, b""), "more pixels than any camera takes"),
    "bomb": (png(9000, 9000, bytes(1 << 22)), "9000 x 9000 pixels, more than the 64 million"),
    "truncated": (saved(drawn())[:400], "damaged or not whole"),
    "truncated JPEG": (saved(drawn(200, 200), "JPEG")[:900], "damaged or not whole"),
    "fewer rows than its header says": (png(40, 40, bytes(100)), "damaged or not whole"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "not a picture that can be read"),
    "empty": (b"", "not a picture that can be read"),
    "GIF": (saved(drawn(), "GIF"), "not a picture that can be read"),
    "animated PNG": (animated("PNG"), "animated picture of 2 frames"),
    "animated WebP": (animated("WEBP"), "animated picture of 2 frames"),
    "16 bits": (saved(Image.new("I;16", (9, 9))), "more than 8 bits"),
    "thinner than 200 to 1": (saved(Image.new("RGB", (402, 2))), "differ more than 200 to 1"),
}


@pytest.mark.parametrize(("content", "said"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_single_whole_picture_is_refused_in_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        picture_patches(given_picture(tmp_path / "cat.png"), SETTINGS, MOST)
    assert "\n" not in str(error.value)
    assert "cat.png" in str(error.value)
    with contextlib.suppress(InputError):  # what is wrong may lie behind what the size needs
        picture_size(given_picture(tmp_path / "cat.png"))


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=6))
def test_a_damaged_picture_is_read_or_refused(place: int, noise: bytes) -> None:
    content = bytearray(saved(drawn()))
    place %= len(content)
    content[place : place + len(noise)] = noise
    try:
        picture_patches(Picture("p", data=bytes(content)), SETTINGS, MOST)
    except InputError as error:
        assert str(error).startswith("p: ")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../secret.png", "link.png"])
def test_a_row_names_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(saved(drawn()))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="lies outside of"):
        picture_in(folder, name)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        picture_in(tmp_path, "cat.png")
    with pytest.raises(InputError, match="no such picture"):
        given_picture(tmp_path)
