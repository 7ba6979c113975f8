"""Keys of what a block sees of the tokens before it: windows, and the kind of each block."""

from mlx_loopai.models.configuration_keys.key import DELTA, LLAMA_LIKE, Key

WINDOWS = (
    Key(
        name="sliding_window",
        of=(*LLAMA_LIKE, "qwen3_moe"),
        mlx_lm="read by llama together with layer_types",
        transformers="mistral: every block, 4096 when missing; qwen: with use_sliding_window; not read by llama",
        gguf="not kept",
        here="mistral: the context ends where the window does; taken out for llama; see use_sliding_window for qwen",
    ),
    Key(
        name="sliding_window",
        of=("exaone4",),
        mlx_lm="of the blocks that its pattern calls L",
        transformers="of the sliding blocks; 4096 when missing, null for none",
        gguf="attention.sliding_window, used in models of 64 blocks only",
        here="transformers' default written out; refused where no block has it, since blocks that see all would "
        "have no positions; refused for gguf where llama.cpp has other windows",
    ),
    Key(
        name="sliding_window",
        of=("gemma3_text",),
        mlx_lm="of the sliding blocks; 512 when missing",
        transformers="of the sliding blocks; 4096 when missing",
        gguf="attention.sliding_window",
        here="transformers' default written out",
    ),
    Key(
        name="sliding_window_pattern",
        of=("exaone4",),
        mlx_lm="letters L and G, repeated; null: no windows",
        transformers="letters, or a number n: every n-th block sees all; 4 when missing; layer_types wins",
        gguf="not kept: LLLG for 64 blocks, else no windows",
        here="a letter for each block written out, from layer_types",
    ),
    Key(
        name="sliding_window_pattern",
        of=("gemma3_text",),
        mlx_lm="every n-th block sees all; 6 when missing",
        transformers="the same; layer_types wins",
        gguf="not kept: 6",
        here="written out from layer_types; another one than 6 is refused for gguf",
    ),
    Key(
        name="use_sliding_window",
        of=("qwen2", "qwen3", "qwen3_moe"),
        mlx_lm="not read",
        transformers="read",
        gguf="not kept",
        here="true is refused; qwen2 and qwen3: unless max_window_layers reaches no block",
    ),
    Key(
        name="max_window_layers",
        of=("qwen2", "qwen3", "qwen3_moe"),
        mlx_lm="not read",
        transformers="blocks from this one on slide; qwen3_moe: not read",
        gguf="not kept",
        here="see use_sliding_window",
    ),
    Key(
        name="layer_types",
        of=LLAMA_LIKE,
        mlx_lm="read by llama",
        transformers="read by qwen2 and qwen3",
        gguf="not kept",
        here="other than full_attention is refused for qwen; taken out for llama and mistral",
    ),
    Key(
        name="layer_types",
        of=DELTA,
        mlx_lm="not read: by full_attention_interval",
        transformers="read",
        gguf="not kept",
        here="written out, as full_attention_interval too; refused where not every n-th block sees all",
    ),
    Key(
        name="layer_types",
        of=("exaone4", "gemma3_text"),
        mlx_lm="not read: by sliding_window_pattern",
        transformers="read",
        gguf="not kept: by its own pattern",
        here="written out, as sliding_window_pattern too; refused where no block sees all, and for gemma3_text "
        "where not every n-th one does",
    ),
    Key(
        name="full_attention_interval",
        of=DELTA,
        mlx_lm="4 when missing",
        transformers="4 when missing; layer_types wins",
        gguf="full_attention_interval",
        here="follows layer_types, else 4 written out; refused where no block, or every one, sees all",
    ),
    Key(
        name="use_bidirectional_attention",
        of=("gemma3_text",),
        mlx_lm="not read",
        transformers="true: tokens see those after them",
        gguf="not kept",
        here="true is refused",
    ),
)
