"""Every key of config.json that decides what a model computes, and what each loader makes of it.

docs/conversion.md prints this table (`make docs`), and tests/unit/converters/test_configuration_keys.py compares its
last column with what is computed. A key that is not in the table is reported as unused. The columns were read from the
code of mlx-lm 0.32.2, transformers 5.24 and llama.cpp of October 2026.
"""

from __future__ import annotations

from dataclasses import dataclass

# Whose keys the table lists in full.
KINDS = ("qwen2", "qwen3", "llama", "mistral", "gpt_neox")
_LLAMA_LIKE = ("qwen2", "qwen3", "llama", "mistral")


@dataclass(frozen=True)
class Key:
    """One key, such as `rope_scaling.factor` inside an object, and what each program does with it for models `of`."""

    name: str
    of: tuple[str, ...]
    mlx_lm: str
    transformers: str
    gguf: str
    here: str


_SIZES = (
    ("vocab_size", "rows of token_embd"),
    ("hidden_size", "embedding_length"),
    ("num_hidden_layers", "block_count"),
    ("num_attention_heads", "attention.head_count"),
)

KEYS = (
    *(
        Key(
            name=name,
            of=KINDS,
            mlx_lm="required",
            transformers="its class's default when missing",
            gguf=gguf,
            here="required; every tensor must have the size that follows",
        )
        for name, gguf in _SIZES
    ),
    Key(
        name="intermediate_size",
        of=KINDS,
        mlx_lm="required; gpt_neox: 4 * hidden_size whatever it says",
        transformers="read",
        gguf="feed_forward_length",
        here="required; gpt_neox with another size is refused",
    ),
    Key(
        name="num_key_value_heads",
        of=KINDS,
        mlx_lm="required by qwen2 and qwen3, else the number of heads",
        transformers="32 (qwen2, qwen3), 8 (mistral) or the number of heads; not read by gpt_neox",
        gguf="attention.head_count_kv, else head_count",
        here="the number of heads when missing; tensors must fit",
    ),
    Key(
        name="head_dim",
        of=KINDS,
        mlx_lm="read by qwen3 (required) and llama; qwen2 and gpt_neox divide hidden_size",
        transformers="read, 128 for qwen3 when missing; not read by gpt_neox",
        gguf="attention.key_length",
        here="128 written out for qwen3; another one than mlx-lm assumes is refused; an odd one too",
    ),
    Key(
        name="hidden_act",
        of=KINDS,
        mlx_lm="not read: silu, and gelu's tanh approximation for gpt_neox",
        transformers="read",
        gguf="not kept: as mlx-lm",
        here="refused but for silu, and for the gelus of gpt_neox (exact gelu: up to 5e-4 an activation apart)",
    ),
    Key(
        name="rms_norm_eps",
        of=_LLAMA_LIKE,
        mlx_lm="required",
        transformers="1e-6 when missing",
        gguf="attention.layer_norm_rms_epsilon",
        here="required",
    ),
    Key(
        name="layer_norm_eps",
        of=("gpt_neox",),
        mlx_lm="required",
        transformers="1e-5 when missing",
        gguf="attention.layer_norm_epsilon",
        here="required",
    ),
    Key(
        name="max_position_embeddings",
        of=KINDS,
        mlx_lm="where dynamic scaling begins",
        transformers="the same; 32768 (qwen), 2048 (llama, gpt_neox) or 131072 (mistral) when missing",
        gguf="context_length",
        here="transformers' default written out",
    ),
    Key(
        name="tie_word_embeddings",
        of=KINDS,
        mlx_lm="true when missing (qwen2, llama, mistral); a head in the file is dropped then; gpt_neox: never",
        transformers="false when missing; a head in the file that is not a copy is kept",
        gguf="tied when there is no output.weight",
        here="follows the file: tied without a head or with a copy, else the head is kept and false is written",
    ),
    Key(
        name="attention_bias",
        of=KINDS,
        mlx_lm="read by llama; qwen2 and gpt_neox always have these biases, qwen3 never",
        transformers="read by llama, qwen3 and gpt_neox; qwen2 always, mistral never",
        gguf="by the tensors",
        here="true refused for qwen3, false for gpt_neox; taken out for mistral, which mlx-lm runs as llama",
    ),
    Key(
        name="mlp_bias",
        of=_LLAMA_LIKE,
        mlx_lm="read by llama",
        transformers="read by llama",
        gguf="by the tensors",
        here="kept for llama; taken out for mistral",
    ),
    Key(
        name="use_parallel_residual",
        of=("gpt_neox",),
        mlx_lm="true when missing",
        transformers="true when missing",
        gguf="use_parallel_residual",
        here="written out",
    ),
    Key(
        name="rope_theta",
        of=_LLAMA_LIKE,
        mlx_lm="1,000,000 (qwen2) or 10,000 when missing; one inside rope_parameters is read by qwen3 only",
        transformers="10,000 when missing; one inside rope_scaling or rope_parameters wins",
        gguf="rope.freq_base",
        here="transformers' value written beside",
    ),
    Key(
        name="rotary_emb_base",
        of=("gpt_neox",),
        mlx_lm="required",
        transformers="10,000 when missing; rope_theta inside wins",
        gguf="rope.freq_base",
        here="transformers' value written out",
    ),
    Key(
        name="rotary_pct",
        of=("gpt_neox",),
        mlx_lm="required",
        transformers="0.25 when missing; partial_rotary_factor inside wins",
        gguf="rope.dimension_count",
        here="transformers' value written out; an odd number of rotated values is refused",
    ),
    Key(
        name="partial_rotary_factor",
        of=_LLAMA_LIKE,
        mlx_lm="not read",
        transformers="beside or inside; the default type ignores it, scaled types do not",
        gguf="rope.dimension_count",
        here="refused unless 1",
    ),
    Key(
        name="rope_traditional",
        of=_LLAMA_LIKE,
        mlx_lm="read: neighbouring pairs are rotated",
        transformers="not read",
        gguf="by the architecture",
        here="true is refused",
    ),
    Key(
        name="rope_parameters",
        of=KINDS,
        mlx_lm="read by qwen3 only",
        transformers="read; rope_scaling, if not empty, replaces it",
        gguf="-",
        here="written as rope_theta and rope_scaling; settings by layer type are refused",
    ),
    Key(
        name="rope_scaling",
        of=KINDS,
        mlx_lm="read, but by gpt_neox",
        transformers="read",
        gguf="rope.scaling.*, rope_freqs.weight",
        here="written out; refused for gpt_neox",
    ),
    Key(
        name="rope_scaling.rope_type",
        of=KINDS,
        mlx_lm="type, else rope_type",
        transformers="rope_type, else type",
        gguf="rope.scaling.type: linear and yarn; llama3 as factors",
        here="both say transformers' one; default is no scaling; longrope, su, mrope and proportional are refused",
    ),
    Key(
        name="rope_scaling.type",
        of=KINDS,
        mlx_lm="wins over rope_type",
        transformers="the older name",
        gguf="-",
        here="as rope_type",
    ),
    Key(
        name="rope_scaling.rope_theta",
        of=KINDS,
        mlx_lm="not read",
        transformers="wins over the one beside",
        gguf="rope.freq_base",
        here="moved beside",
    ),
    Key(
        name="rope_scaling.partial_rotary_factor",
        of=KINDS,
        mlx_lm="not read",
        transformers="wins over the one beside",
        gguf="rope.dimension_count",
        here="as beside",
    ),
    Key(
        name="rope_scaling.factor",
        of=_LLAMA_LIKE,
        mlx_lm="required",
        transformers="required; yarn: context / original context when null",
        gguf="rope.scaling.factor",
        here="required; yarn's written out",
    ),
    Key(
        name="rope_scaling.original_max_position_embeddings",
        of=_LLAMA_LIKE,
        mlx_lm="4096 (yarn) or 8192 (llama3) when missing",
        transformers="max_position_embeddings when missing; one beside rope_scaling wins",
        gguf="rope.scaling.original_context_length",
        here="transformers' value written out",
    ),
    Key(
        name="original_max_position_embeddings",
        of=_LLAMA_LIKE,
        mlx_lm="not read",
        transformers="wins over the one inside",
        gguf="-",
        here="moved inside",
    ),
    Key(
        name="rope_scaling.low_freq_factor",
        of=_LLAMA_LIKE,
        mlx_lm="1 when missing",
        transformers="required",
        gguf="rope_freqs.weight",
        here="required for llama3",
    ),
    Key(
        name="rope_scaling.high_freq_factor",
        of=_LLAMA_LIKE,
        mlx_lm="4 when missing",
        transformers="required",
        gguf="rope_freqs.weight",
        here="required for llama3, above low_freq_factor",
    ),
    Key(
        name="rope_scaling.attention_factor",
        of=_LLAMA_LIKE,
        mlx_lm="not read",
        transformers="read by yarn",
        gguf="rope.scaling.attn_factor, times 0.1 ln(factor) + 1",
        here="kept, and written as the mscale that gives it; refused where the factor is 1 or less",
    ),
    Key(
        name="rope_scaling.beta_fast",
        of=_LLAMA_LIKE,
        mlx_lm="32 when missing",
        transformers="32 when missing or 0",
        gguf="a key that llama.cpp does not read for these models: 32",
        here="kept; another one than 32 is refused for gguf, out and in",
    ),
    Key(
        name="rope_scaling.beta_slow",
        of=_LLAMA_LIKE,
        mlx_lm="1 when missing",
        transformers="1 when missing or 0",
        gguf="a key that llama.cpp does not read for these models: 1",
        here="kept; another one than 1 is refused for gguf, out and in",
    ),
    Key(
        name="rope_scaling.mscale",
        of=_LLAMA_LIKE,
        mlx_lm="read by yarn, alone too",
        transformers="read by yarn together with mscale_all_dim",
        gguf="as attention_factor",
        here="kept with the other; alone taken out",
    ),
    Key(
        name="rope_scaling.mscale_all_dim",
        of=_LLAMA_LIKE,
        mlx_lm="read by yarn, alone too",
        transformers="read by yarn together with mscale",
        gguf="as attention_factor",
        here="kept with the other; alone taken out",
    ),
    Key(
        name="rope_scaling.truncate",
        of=_LLAMA_LIKE,
        mlx_lm="not read: true",
        transformers="read by yarn",
        gguf="not kept: true",
        here="false is refused",
    ),
    Key(
        name="sliding_window",
        of=_LLAMA_LIKE,
        mlx_lm="read by llama together with layer_types",
        transformers="mistral: every block, 4096 when missing; qwen: with use_sliding_window; not read by llama",
        gguf="not kept",
        here="mistral: the context ends where the window does; taken out for llama",
    ),
    Key(
        name="use_sliding_window",
        of=("qwen2", "qwen3"),
        mlx_lm="not read",
        transformers="read",
        gguf="not kept",
        here="true is refused, unless max_window_layers reaches no block",
    ),
    Key(
        name="max_window_layers",
        of=("qwen2", "qwen3"),
        mlx_lm="not read",
        transformers="blocks from this one on slide",
        gguf="not kept",
        here="see use_sliding_window",
    ),
    Key(
        name="layer_types",
        of=_LLAMA_LIKE,
        mlx_lm="read by llama",
        transformers="read by qwen2 and qwen3",
        gguf="not kept",
        here="other than full_attention is refused for qwen; taken out for llama and mistral",
    ),
    Key(
        name="is_causal",
        of=KINDS,
        mlx_lm="not read: true",
        transformers="false: tokens see those after them",
        gguf="attention.causal, not kept",
        here="false is refused",
    ),
    Key(
        name="quantization_config",
        of=KINDS,
        mlx_lm="some tools' are converted at load",
        transformers="the tool's own kernels",
        gguf="-",
        here="refused, with the tool's name, unless it is MLX's",
    ),
)
