"""Opens a model folder: weights through mlx-lm, tokenizer, shape and the base's identity."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import _get_classes
from mlx_lm.utils import load_model as read_model
from mlx_lm.utils import load_tokenizer as read_tokenizer

from mlx_loopai.errors import InputError
from mlx_loopai.files import refuse_links_out
from mlx_loopai.language import tr
from mlx_loopai.models.architectures import text_part
from mlx_loopai.models.architectures.vision_language import family_of
from mlx_loopai.models.configuration import complete_configuration, loader_overrides
from mlx_loopai.models.decoder import architecture_in
from mlx_loopai.models.hub import download, is_hub_id
from mlx_loopai.models.pass_sizes import QUANTIZATION_GROUP
from mlx_loopai.models.rounding import is_rounded
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.models.unused_keys import unused_fields
from mlx_loopai.models.updated_linear import remove_updates
from mlx_loopai.models.vision.added import ENCODER_FILE, FOLDER, PROJECTOR_FILE, SETTINGS_FILE, AddedSettings
from mlx_loopai.models.vision.opening import open_vision
from mlx_loopai.models.vision.part import VisionPart
from mlx_loopai.models.vision.settings import Seen, vision_settings
from mlx_loopai.models.vision.text_weights import text_classes, text_overrides

NANO = "nano"
NANO_FOLDER = Path(__file__).parent.parent / "assets" / "nano"
DTYPES = {"fp32": mx.float32, "bf16": mx.bfloat16, "fp16": mx.float16}
# What of a model's folder is read.
_READ = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "*.tiktoken")
TOKENIZER_FILES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")
_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"
_HASH_SAMPLES = 32
_HASH_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run. `base_hash` identifies its weights, whatever dtype they were cast to. vision: the part that
    reads pictures; None for a text-only model.
    """

    model: nn.Module
    tokenizer: TokenizerWrapper
    shape: ModelShape
    path: Path
    base_hash: str
    vision: VisionPart | None = None

    @cached_property
    def n_tokens(self) -> int:
        """The tokenizer's tokens; the rows of the head beyond them are padding."""
        return 1 + max(self.tokenizer.get_vocab().values())

    @property
    def cache_key(self) -> list[Any]:
        """Equal for two bases that compute the same: JSON values that become part of the name of a kept file."""
        # A run may quantise its base to fit the machine.
        bits = sorted({module.bits for module in self.model.modules() if hasattr(module, "bits")})
        dtype = self.model.model.norm.weight.dtype
        return [self.base_hash, bits, str(dtype), str(mx.default_device()), mx.__version__]

    @cached_property
    def max_positions(self) -> int:
        """Longest text, in tokens, that the model was made for; a sliding window over all blocks ends it."""
        where = self.path / "config.json"
        return complete_configuration(text_part(_read_json(where)), str(where))["max_position_embeddings"]


class Base:
    """A model's folder, opened once: its place, shape and tokenizer, and its weights when they are first asked for.

    One base serves many runs: an adapter that a run put on it is taken off before the next one gets it.
    """

    def __init__(self, path: Path, shape: ModelShape, tokenizer: TokenizerWrapper) -> None:
        self.path, self.shape, self.tokenizer = path, shape, tokenizer
        self._loaded: LoadedModel | None = None
        self._precision: tuple[str, int] | None = None

    @staticmethod
    def open(model: str) -> Base:
        """The base called `model`: nano, a folder, or a hub id.

        Raises: InputError when there is no such folder, it is not a model's, or the hub cannot be reached.
        """
        path = resolve_model(model)
        refuse_links_out(path, _READ)
        return Base(path, ModelShape.from_folder(path), load_tokenizer(path))

    @property
    def unused_fields(self) -> tuple[str, ...]:
        """The names of fields in its config.json that no loader reads."""
        return unused_fields(text_part(_read_json(self.path / "config.json")))

    @property
    def sees(self) -> Seen | None:
        """The settings of its vision part; None for a text-only model. Raises: InputError for absurd settings."""
        return vision_settings(_read_json(self.path / "config.json"), self.path) or AddedSettings.read(self.path)

    @property
    def loaded(self) -> LoadedModel:
        """The model as it is now, with the adapter that it may have; `load` comes first."""
        assert self._loaded is not None
        return self._loaded

    def load(self, dtype: str = "auto", quantize_bits: int = 0) -> LoadedModel:
        """The model without an adapter, its weights cast to `dtype`; files are read only if it is not loaded that way,
        or was rounded since.

        `auto` is fp32 on CPU, where half precision is emulated, and bf16 on Metal. With `quantize_bits` the linear
        layers are quantised as they are read, so that the whole model is never in memory unquantised.
        Raises: InputError for a folder that is not a supported model.
        """
        precision = (default_dtype() if dtype == "auto" else dtype, quantize_bits)
        if self._loaded is None or precision != self._precision or is_rounded(self._loaded.model):
            self._loaded = None  # two copies of the weights may not fit
            network = _read_weights(self.path, *precision)
            vision = open_vision(_read_json(self.path / "config.json"), self.path, network, DTYPES[precision[0]])
            self._loaded = LoadedModel(
                model=network,
                tokenizer=self.tokenizer,
                shape=self.shape,
                path=self.path,
                base_hash=hash_base(self.path),
                vision=vision,
            )
            self._precision = precision
        remove_updates(self._loaded.model)
        self._loaded.model.eval()
        return self._loaded


def resolve_model(model: str) -> Path:
    """The folder of `nano`, of a local path, or of a hub id (downloaded unless cached).

    Raises: InputError when there is no such folder, or the hub cannot be reached and nothing is cached.
    """
    if model == NANO:
        return NANO_FOLDER
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(
            tr("`model` {model}: a file, not a model folder; convert it first: mlx-loopai convert {model}", model=model)
        )
    if not is_hub_id(model):
        raise InputError(
            tr(
                "`model` {model}: no such folder; give nano, a folder, or a hub id such as Qwen/Qwen2.5-1.5B-Instruct",
                model=model,
            )
        )
    return download(model)


def load_model(model: str, dtype: str = "auto", quantize_bits: int = 0) -> LoadedModel:
    """Weights, tokenizer and shape of `model`, as `Base.load` gives them. Raises: InputError as `Base` does."""
    return Base.open(model).load(dtype, quantize_bits)


def _read_weights(path: Path, dtype: str, quantize_bits: int) -> nn.Module:
    config = _read_json(path / "config.json")
    code = config.get("model_file")
    if code is not None:
        raise InputError(
            tr(
                "{path}: its config.json wants {code} to be run; code in a model folder is never run here",
                path=path,
                code=code,
            )
        )
    where, classes = str(path / "config.json"), _get_classes
    if family_of(config.get("model_type")) is None:
        overrides = loader_overrides(config, where)
    else:
        overrides, classes = text_overrides(complete_configuration(config, where), config), text_classes
    (overrides.get("text_config") or overrides)["tie_word_embeddings"] = _ties(path, text_part(config))
    try:
        network, _ = read_model(path, lazy=True, model_config=overrides, get_model_classes=classes)
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            tr(
                "{path}: cannot open the model: {reason}; convert it again or download it anew",
                path=path,
                reason=reason,
            )
        ) from None
    target = DTYPES[dtype]
    casts = getattr(network, "cast_predicate", lambda name: True)
    network.update(
        tree_map_with_path(lambda name, array: _cast(array, target) if casts(name) else array, network.parameters())
    )
    if quantize_bits:
        routers = architecture_in(network).never_adapted
        nn.quantize(
            network,
            group_size=QUANTIZATION_GROUP,
            bits=quantize_bits,
            class_predicate=lambda name, module: hasattr(module, "to_quantized") and not name.endswith(routers),
        )
    network.eval()
    mx.eval(network.parameters())
    return network


def default_dtype() -> str:
    return "bf16" if mx.metal.is_available() else "fp32"


def load_tokenizer(path: Path) -> TokenizerWrapper:
    """The folder's tokenizer; end-of-sequence ids from generation_config.json where it names them.

    Raises: InputError when a file of it is missing or broken.
    """
    if not any(file for pattern in TOKENIZER_FILES for file in path.glob(pattern)):
        # transformers would make an empty one up.
        raise InputError(
            tr("{path}: no tokenizer in this folder (tokenizer.json); convert it again with `tokenizer` DIR", path=path)
        )
    try:
        return read_tokenizer(path, eos_token_ids=_eos_token_ids(path))
    # The tokenizers library raises bare Exceptions for a file that it cannot read.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            tr("{path}: cannot open the tokenizer: {reason}; convert or download it again", path=path, reason=reason)
        ) from None


def build_model(config: dict[str, Any]) -> nn.Module:
    """A freshly initialised model of `config`, float32."""
    model_class, arguments_class = _get_classes(config=config)
    return model_class(arguments_class.from_dict(config))


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters as they are loaded."""
    return sum(int(array.nbytes) for _, array in tree_flatten(model.parameters()))


def hash_base(path: Path) -> str:
    """Identity of a base: its configuration and evenly spaced samples of every weight file.

    A full hash of a large base would cost more than loading it; samples tell any two checkpoints apart.
    """
    digest = hashlib.sha256(json.dumps(_read_json(path / "config.json"), sort_keys=True).encode())
    added = [path / FOLDER / name for name in (SETTINGS_FILE, ENCODER_FILE, PROJECTOR_FILE)]
    for file in [*sorted(path.glob("model*.safetensors")), *(one for one in added if one.is_file())]:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as stream:
            for sample in range(_HASH_SAMPLES):
                stream.seek(max(0, size - _HASH_BLOCK_BYTES) * sample // (_HASH_SAMPLES - 1))
                digest.update(stream.read(_HASH_BLOCK_BYTES))
    return digest.hexdigest()


def _ties(path: Path, config: dict[str, Any]) -> bool:
    """Whether the head of a llama-like model is its embedding.

    transformers ties only a head that the files do not hold or that is a copy; mlx-lm drops any head of a model that is
    called tied, and calls it so where config.json does not say.
    """
    tie = config.get("tie_word_embeddings")
    if tie is False or (tie and config.get("quantization")):
        return bool(tie)
    found: dict[str, mx.array] = {}
    for file in sorted(path.glob("model*.safetensors")):
        try:
            arrays = mx.load(str(file))
        except (RuntimeError, ValueError):
            return bool(tie)  # damaged: opening the model reports it
        # A multimodal model has a prefix before them.
        found |= {end: arrays[name] for end in (_EMBEDDING, _HEAD) for name in arrays if name.endswith(end)}
    if _HEAD not in found or _EMBEDDING not in found:
        return _HEAD not in found
    return tie is not None and mx.array_equal(found[_EMBEDDING], found[_HEAD]).item()


def _cast(array: mx.array, dtype: mx.Dtype) -> mx.array:
    return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array


def _eos_token_ids(path: Path) -> list[int] | None:
    for name in ("generation_config.json", "config.json"):
        ids = _read_json(path / name).get("eos_token_id")
        if ids is not None:
            return [ids] if isinstance(ids, int) else list(ids)
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
