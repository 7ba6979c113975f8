"""Computes logits with transformers and with llama.cpp, where they are installed and the model fits into memory."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np

from converters.tensors import Checkpoint


def transformers_logits(source: Checkpoint, tokens: np.ndarray) -> np.ndarray | None:
    """The logits (T, V) of a dense Hugging Face folder as transformers opens it; None where it does not.

    No code of the folder is run, and nothing is unpickled.
    """
    if source.raw is None or source.packed or not _installed("transformers", "torch"):
        return None
    if not list(source.source.glob("*.safetensors")) or not fits(source):
        return None
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.source,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
        with torch.no_grad():
            return model.eval()(torch.tensor(tokens[None].astype(np.int64))).logits[0].float().numpy()
    # A folder that it cannot open is not compared; one that it opens wrongly shows in the logits.
    except Exception:
        return None


def llama_cpp_logits(output: Checkpoint, tokens: np.ndarray) -> np.ndarray | None:
    """The logits (T, V) of a GGUF file as llama.cpp opens it; None for other outputs, or where it does not."""
    if output.gguf_metadata is None or not _installed("llama_cpp") or not fits(output):
        return None
    import llama_cpp

    try:
        model: Any = llama_cpp.Llama(
            str(output.source), n_ctx=len(tokens), n_batch=len(tokens), logits_all=True, n_gpu_layers=0, verbose=False
        )
        model.eval(tokens.tolist())
        scores = np.array(model.scores[: len(tokens)], np.float32)
        model.close()
        return scores
    except Exception:
        return None


def fits(checkpoint: Checkpoint) -> bool:
    """Whether half of this machine's memory holds the weights in float32."""
    n_bytes = 4 * sum(entry.n_elements for entry in checkpoint.entries)
    return n_bytes < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)
