"""One GGUF file with weights, tokenizer and chat template, as llama.cpp and the programs built on it open it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from converters import names
from converters.gguf_configuration import llama3_factors
from converters.gguf_values import in_gguf_form
from converters.readers.gguf_model import ROPE_FACTORS
from converters.rounding import Rounding, gguf_bound, k_quant_bound
from converters.row_order import gguf_row_order, of_columns, reordered
from converters.tensors import Checkpoint, TensorEntry, cast_checked
from converters.writers import Progress
from converters.writers.gguf_tokenizer import add_tokenizer
from converters.writers.k_quants import K_QUANTS, quantize_file
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.architectures import ARCHITECTURES
from mlx_loopai.models.architectures.architecture import DeltaHeads
from mlx_loopai.models.architectures.qwen3_5_moe import SHARED_GATE
from mlx_loopai.models.architectures.qwen3_moe import ROUTER
from mlx_loopai.models.rope import BETA_FAST, BETA_SLOW, yarn_attention_factor
from mlx_loopai.models.shape import ModelShape

_PLAIN = {"F32": GGMLQuantizationType.F32, "F16": GGMLQuantizationType.F16, "BF16": GGMLQuantizationType.BF16}
# llama.cpp's smallest block: a matrix whose rows it does not divide stays dense.
_SMALLEST_BLOCK = 32
# Matrices that llama.cpp's kernels need in float32, as its own converter writes them: routers, a short convolution.
_IN_FLOAT32 = (f".{ROUTER}.weight", f".{SHARED_GATE}.weight", ".linear_attn.conv1d.weight")
WORDS = {"q8_0": GGMLQuantizationType.Q8_0, "q4_0": GGMLQuantizationType.Q4_0}
_FILE_TYPES = {
    GGMLQuantizationType.F32: LlamaFileType.ALL_F32,
    GGMLQuantizationType.F16: LlamaFileType.MOSTLY_F16,
    GGMLQuantizationType.BF16: LlamaFileType.MOSTLY_BF16,
    GGMLQuantizationType.Q8_0: LlamaFileType.MOSTLY_Q8_0,
    GGMLQuantizationType.Q4_0: LlamaFileType.MOSTLY_Q4_0,
}


@dataclass(frozen=True)
class _Piece:
    """A tensor of the file: its GGUF name, its type there, and where its values come from."""

    name: str
    kind: GGMLQuantizationType
    entry: TensorEntry

    @property
    def n_bytes(self) -> int:
        block, block_bytes = GGML_QUANT_SIZES[self.kind]
        return self.entry.n_elements // block * block_bytes

    def blocks(self) -> Iterator[np.ndarray]:
        """Its bytes in order. Raises: InputError for a value that is not finite or does not fit."""
        for start, stop in self.entry.spans():
            if self.kind.name in _PLAIN:
                yield cast_checked(self.entry, start, stop, self.kind.name)
            else:
                yield gguf.quantize(cast_checked(self.entry, start, stop, "F32"), self.kind)


def _kind(entry: TensorEntry, main: GGMLQuantizationType, head: str) -> GGMLQuantizationType:
    if len(entry.shape) < 2 or entry.name.endswith(_IN_FLOAT32):
        return GGMLQuantizationType.F32  # llama.cpp's kernels add norms and biases in float32
    if main.name in _PLAIN:
        return main
    # llama.cpp keeps the head finer than Q4_0 too: its rounding goes straight into the logits.
    kind = GGMLQuantizationType.Q8_0 if entry.name == head else main
    fits = entry.row_length % GGML_QUANT_SIZES[kind][0] == 0
    return kind if fits else GGMLQuantizationType.F16


def _head(config: Mapping[str, Any]) -> str:
    """The matrix that gives the logits."""
    architecture = ARCHITECTURES[config["model_type"]]
    return architecture.embedding if config["tie_word_embeddings"] else architecture.head


def check_is_written(config: Mapping[str, Any], where: str) -> None:
    """Raises: InputError for a model that llama.cpp lacks, or does not compute as its complete `config` says."""
    architecture = ARCHITECTURES[config["model_type"]]
    problem = f"{architecture.model_type} is" if architecture.gguf is None else None
    if architecture.gguf_refuses is not None:
        problem = architecture.gguf_refuses(config)
    if problem is not None:
        raise InputError(
            tr(
                "{where}: {problem} not written to GGUF; use `to` hf, and llama.cpp's own converter",
                where=where,
                problem=problem,
            )
        )


def _pieces(checkpoint: Checkpoint, main: GGMLQuantizationType) -> list[_Piece]:
    check_is_written(checkpoint.config, str(checkpoint.source))
    pieces = []
    architecture = ARCHITECTURES[checkpoint.config["model_type"]]
    for entry in checkpoint.entries:
        name = names.gguf_name(entry.name, architecture)
        if name is None:
            raise InputError(
                tr("{origin}: GGUF has no name for this tensor; use `to` hf or `to` mlx", origin=entry.origin)
            )
        changed = in_gguf_form(entry, architecture)
        kind = _kind(changed, main, _head(checkpoint.config))
        pieces.append(_Piece(name, kind, _in_gguf_order(changed, checkpoint.config)))
    return pieces


def _in_gguf_order(entry: TensorEntry, config: dict[str, Any]) -> TensorEntry:
    order = gguf_row_order(entry.name, config)
    if order is None:
        return entry
    return replace(entry, read_rows=reordered(entry.read_rows, order, of_columns(entry.name, entry.shape)))


def rounding(entry: TensorEntry, form: str, config: Mapping[str, Any]) -> Rounding | None:
    """What `form` does to float32 rows of `entry`; None where it is stored dense."""
    if form in K_QUANTS:
        if not entry.is_matrix or entry.row_length % _SMALLEST_BLOCK:
            return None
        return Rounding(None, lambda rows: k_quant_bound(rows, K_QUANTS[form].bits))
    kind = _kind(entry, _main_kind(form), _head(config))
    if kind.name in _PLAIN:
        return None
    bits = 8 if kind == GGMLQuantizationType.Q8_0 else 4
    return Rounding(lambda rows: gguf.dequantize(gguf.quantize(rows, kind), kind), lambda rows: gguf_bound(rows, bits))


def gguf_bytes(checkpoint: Checkpoint, form: str) -> int:
    """Bytes of the weights as `form`: F32, F16, BF16, q8_0 or q4_0; of a K-quant those of its dense file."""
    if form in K_QUANTS:
        form = checkpoint.dtype
    return sum(piece.n_bytes for piece in _pieces(checkpoint, _main_kind(form)))


def _main_kind(form: str) -> GGMLQuantizationType:
    return _PLAIN[form] if form in _PLAIN else WORDS[form]


def write_gguf(path: Path, checkpoint: Checkpoint, tokenizer: Sequence[Path], form: str, on_progress: Progress) -> int:
    """Write `path`, its matrices as `form` (F32, F16, BF16, q8_0, q4_0 or a K-quant). Returns: tensors written.

    Vectors stay float32. With q4_0 the head (or the embedding that serves as one) is q8_0. A K-quant is made by
    llama.cpp from a temporary dense file beside `path`.

    Raises:
        InputError: an architecture, rope scaling or tokenizer that GGUF cannot hold, or values that cannot be written.
        OSError: the file cannot be written.
        LoopaiError: llama.cpp could not quantise the file.
    """
    if form in K_QUANTS:
        dense = path.with_name(f"{path.name}.dense")
        try:
            written = write_gguf(dense, checkpoint, tokenizer, checkpoint.dtype, on_progress)
            quantize_file(dense, path, form)
        finally:
            dense.unlink(missing_ok=True)
        return written
    main = _main_kind(form)
    pieces = _pieces(checkpoint, main)
    architecture = ARCHITECTURES[checkpoint.config["model_type"]]
    factors = _rope_factors(checkpoint.config)
    writer = gguf.GGUFWriter(path, architecture.gguf)
    try:
        _add_sizes(writer, checkpoint)
        writer.add_file_type(_FILE_TYPES[main])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_tokenizer(writer, tokenizer, checkpoint, path.parent)
        for piece in pieces:
            # The package requires a dtype, but ignores it when raw_dtype is given.
            writer.add_tensor_info(
                piece.name, piece.entry.shape, np.dtype(np.float32), piece.n_bytes, raw_dtype=piece.kind
            )
        if factors is not None:
            writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        _write_values(writer, pieces, on_progress)
        if factors is not None:
            _write_block(writer, factors)
    finally:
        writer.close()
    return len(pieces)


def _write_values(writer: gguf.GGUFWriter, pieces: Sequence[_Piece], on_progress: Progress) -> None:
    # The package's own writer takes whole tensors; blocks keep memory bounded.
    (file,) = writer.fout
    writer.write_padding(file, file.tell())
    for piece in pieces:
        for block in piece.blocks():
            file.write(np.ascontiguousarray(block).data.cast("B"))
            on_progress(block.nbytes)
        writer.write_padding(file, piece.n_bytes)


def _write_block(writer: gguf.GGUFWriter, values: np.ndarray) -> None:
    (file,) = writer.fout
    file.write(np.ascontiguousarray(values).data.cast("B"))
    writer.write_padding(file, values.nbytes)


def _rope_factors(config: Mapping[str, Any]) -> np.ndarray | None:
    """Llama 3's scaling as llama.cpp has it: what divides each rotary frequency; None for another scaling or none."""
    scaling = config.get("rope_scaling")
    if scaling is None or scaling["rope_type"] != "llama3":
        return None
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return llama3_factors(scaling, config["rope_theta"], head_dim // 2).astype(np.float32)


def _add_sizes(writer: gguf.GGUFWriter, checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_type("model")
    writer.add_name(checkpoint.source.stem)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    if config["model_type"] == "gpt_neox":
        writer.add_rope_dimension_count(int(config["rotary_pct"] * head_dim))
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        writer.add_rope_freq_base(config["rotary_emb_base"])
        writer.add_parallel_residual(config["use_parallel_residual"])
    else:
        rope = config.get("rope_parameters") or {}
        base = rope.get("rope_theta", config.get("rope_theta"))
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1)))
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(base)
    architecture = ARCHITECTURES[config["model_type"]]
    if "window" in ModelShape.from_config(config).kinds:
        writer.add_sliding_window(config["sliding_window"])
    if architecture.delta_heads is not None:
        _add_linear_attention(writer, architecture.delta_heads(config), config)
    if architecture.experts is not None:
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
        if "shared_expert_intermediate_size" in config:
            writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if _rope_factors(config) is None or architecture.gguf not in _READ_FACTORS:
        _add_rope_scaling(writer, config.get("rope_scaling"), str(checkpoint.source))


def _add_linear_attention(writer: gguf.GGUFWriter, heads: DeltaHeads, config: Mapping[str, Any]) -> None:
    writer.add_ssm_conv_kernel(heads.kernel)
    writer.add_ssm_state_size(heads.key_size)
    writer.add_ssm_group_count(heads.keys)
    writer.add_ssm_time_step_rank(heads.values)
    writer.add_ssm_inner_size(heads.values_width)
    writer.add_full_attention_interval(config["full_attention_interval"])
    rope = config["rope_parameters"]
    # M-RoPE: a text token has its position three times, and every rotary pair must belong to one of the three.
    pairs = int(config["head_dim"] * rope["partial_rotary_factor"]) // 2
    sections = list(rope.get("mrope_section") or [-(-(pairs - place) // 3) for place in range(3)])
    writer.add_rope_dimension_sections([*sections, *[0] * (4 - len(sections))])


# llama.cpp reads rope_freqs.weight for these.
_READ_FACTORS = ("llama", "exaone4")
_SCALINGS = {"linear": gguf.RopeScalingType.LINEAR, "yarn": gguf.RopeScalingType.YARN}


def _add_rope_scaling(writer: gguf.GGUFWriter, scaling: dict[str, Any] | None, where: str) -> None:
    if scaling is None:
        return
    kind = scaling["rope_type"]
    if kind not in _SCALINGS:
        raise InputError(
            tr(
                "{where}: rope scaling {kind!r} is not written to GGUF here, linear and yarn are; use `to` hf",
                where=where,
                kind=kind,
            )
        )
    writer.add_rope_scaling_type(_SCALINGS[kind])
    writer.add_rope_scaling_factor(scaling["factor"])
    if kind != "yarn":
        return
    writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    betas = scaling.get("beta_fast", BETA_FAST), scaling.get("beta_slow", BETA_SLOW)
    if betas != (BETA_FAST, BETA_SLOW):
        raise InputError(
            tr(
                "{where}: yarn with beta_fast {fast:g} and beta_slow {slow:g} is not written to GGUF: "
                "llama.cpp takes {beta_fast} and {beta_slow} for this architecture whatever the file says; use "
                "`to` hf or mlx",
                where=where,
                fast=betas[0],
                slow=betas[1],
                beta_fast=BETA_FAST,
                beta_slow=BETA_SLOW,
            )
        )
    # llama.cpp multiplies this value by the one that it derives from the factor.
    usual = yarn_attention_factor({"factor": scaling["factor"]})
    writer.add_rope_scaling_attn_factors(yarn_attention_factor(scaling) / usual)
