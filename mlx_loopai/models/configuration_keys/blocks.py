"""Keys of a model's sizes, activations, norms, biases and head."""

from mlx_loopai.models.configuration_keys.key import DELTA, KINDS, LLAMA_LIKE, RMS, Key

_SIZES = (
    ("vocab_size", "rows of token_embd", "required"),
    ("hidden_size", "embedding_length", "required"),
    ("num_hidden_layers", "block_count", "required"),
    ("num_attention_heads", "attention.head_count", "required; gemma3_text: 8 written out"),
)

BLOCKS = (
    *(
        Key(
            name=name,
            of=KINDS,
            mlx_lm="required; its class's default when missing for qwen3_5, qwen3_5_moe and gemma3_text",
            transformers="its class's default when missing",
            gguf=gguf,
            here=f"{here}; every tensor must have the size that follows",
        )
        for name, gguf, here in _SIZES
    ),
    Key(
        name="intermediate_size",
        of=KINDS,
        mlx_lm="required; gpt_neox: 4 * hidden_size whatever it says; qwen3_5_moe: not read",
        transformers="read; qwen3_5_moe: not read; qwen3_moe: by blocks without experts only",
        gguf="feed_forward_length",
        here="required, or else moe_intermediate_size; gpt_neox with another size is refused",
    ),
    Key(
        name="num_key_value_heads",
        of=KINDS,
        mlx_lm="required by qwen2, qwen3, qwen3_moe and exaone4; 8 (qwen3_5) or 1 (gemma3_text) when missing; else the "
        "number of heads",
        transformers="32 (qwen2, qwen3, exaone4), 8 (mistral), 4 (qwen3_moe, qwen3_5, gemma3_text), 2 (qwen3_5_moe) or "
        "the number of heads when missing; not read by gpt_neox",
        gguf="attention.head_count_kv, else head_count",
        here="the number of heads when missing, 4 for gemma3_text; tensors must fit",
    ),
    Key(
        name="head_dim",
        of=KINDS,
        mlx_lm="required by qwen3, qwen3_moe and exaone4; read by llama, qwen3_5 and gemma3_text (256 when missing); "
        "qwen2 and gpt_neox divide hidden_size",
        transformers="read; 128 (qwen3) or 256 (qwen3_5, gemma3_text) when missing; not read by gpt_neox",
        gguf="attention.key_length",
        here="transformers' default written out; another one than mlx-lm assumes is refused; an odd one too",
    ),
    Key(
        name="hidden_act",
        of=KINDS,
        mlx_lm="not read: silu, and gelu's tanh approximation for gpt_neox and gemma3_text",
        transformers="read; not by gemma3_text",
        gguf="not kept: as mlx-lm",
        here="refused but for silu, and for the gelus of gpt_neox (exact gelu: up to 5e-4 an activation apart); "
        "gemma3_text: as hidden_activation where that is missing",
    ),
    Key(
        name="hidden_activation",
        of=("gemma3_text",),
        mlx_lm="not read: gelu's tanh approximation",
        transformers="gelu_pytorch_tanh when missing",
        gguf="not kept: as mlx-lm",
        here="refused but for gelu_pytorch_tanh",
    ),
    Key(
        name="rms_norm_eps",
        of=RMS,
        mlx_lm="required; 1e-6 when missing for qwen3_5, qwen3_5_moe and gemma3_text",
        transformers="1e-6 when missing, 1e-5 for exaone4",
        gguf="attention.layer_norm_rms_epsilon",
        here="required; transformers' default written out for qwen3_moe, qwen3_5, qwen3_5_moe, exaone4 and gemma3_text",
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
        transformers="the same; 32768 (qwen), 2048 (llama, gpt_neox, exaone4) or 131072 (mistral, gemma3_text) when "
        "missing",
        gguf="context_length",
        here="transformers' default written out",
    ),
    Key(
        name="tie_word_embeddings",
        of=KINDS,
        mlx_lm="true when missing (qwen2, llama, mistral), false (qwen3_5), else required; a head in the file is "
        "dropped "
        "where it is true; gpt_neox: never tied; gemma3_text: tied when there is no head",
        transformers="false when missing, true for gemma3_text; a head in the file that is not a copy is kept",
        gguf="tied when there is no output.weight",
        here="follows the file: tied without a head or with a copy, else the head is kept and false is written",
    ),
    Key(
        name="attention_bias",
        of=tuple(kind for kind in KINDS if kind != "exaone4"),
        mlx_lm="read by llama and qwen3_5; qwen2 and gpt_neox always have these biases, qwen3, qwen3_moe and "
        "gemma3_text never",
        transformers="read by llama, gpt_neox, gemma3_text and qwen but qwen2, which always has them; mistral never",
        gguf="by the tensors",
        here="true is refused for qwen3, qwen3_moe and gemma3_text, false for gpt_neox; taken out for mistral, which "
        "mlx-lm runs as llama",
    ),
    Key(
        name="mlp_bias",
        of=LLAMA_LIKE,
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
        name="attn_output_gate",
        of=DELTA,
        mlx_lm="not read: true",
        transformers="not read: true",
        gguf="not kept: true",
        here="false is refused",
    ),
    Key(
        name="query_pre_attn_scalar",
        of=("gemma3_text",),
        mlx_lm="256 when missing",
        transformers="256 when missing",
        gguf="not kept: head_dim, or hidden_size / heads for 62 blocks",
        here="written out; another one than llama.cpp's is refused for gguf",
    ),
    Key(
        name="attn_logit_softcapping",
        of=("gemma3_text",),
        mlx_lm="not read",
        transformers="read",
        gguf="not kept",
        here="refused",
    ),
    Key(
        name="final_logit_softcapping",
        of=("gemma3_text",),
        mlx_lm="not read",
        transformers="read",
        gguf="not kept",
        here="refused",
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
