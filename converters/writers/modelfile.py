"""Writes the Modelfile from which Ollama makes a model of a GGUF file: template, system prompt, stop tokens, sampling.

Source: Ollama's documentation of Modelfile and of templates (Go's text/template).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401  # before mlx: on Linux it loads the fast BLAS

# isort: split
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.load import load_tokenizer

# ChatML, which Qwen's models and many others use, as an Ollama template. A last turn of the model's own is left open.
_CHATML = """{{- if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}
{{- range $at, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $at)) 1 }}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ if $last }}<|im_start|>assistant
{{ end }}
{{- else if eq .Role "assistant" }}<|im_start|>assistant
{{ .Content }}{{ if not $last }}<|im_end|>
{{ end }}
{{- end }}
{{- end }}"""
_SYSTEM = ("<|im_start|>system\n", "<|im_end|>\n")
_QUOTES = '"""'
_QUESTION = "0?"
_ASKED = f"<|im_start|>user\n{_QUESTION}<|im_end|>\n<|im_start|>assistant\n"
_PARAMETERS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}


def check_system(system: str) -> None:
    """Raises: InputError when the system prompt holds what ends one in a Modelfile."""
    if _QUOTES in system:
        raise InputError(
            tr("the system prompt has {quotes}, which ends one in a Modelfile; leave it out", quotes=_QUOTES)
        )


def modelfile_of(model: Path) -> Path:
    """Where the Modelfile of a GGUF file lies: `m.Modelfile` beside `m.gguf`."""
    return model.with_suffix(".Modelfile")


def modelfile(
    model: str,
    tokenizer: Sequence[Path],
    generation: Mapping[str, Any] | None,
    adapter: str | None = None,
    system: str = "",
) -> str:
    """The text of a Modelfile for `model`, a GGUF file beside it or a model's name, with `adapter` on it.

    tokenizer: the files of the model's tokenizer; generation: its generation_config.json; system: the system prompt,
    in place of the chat template's own. A chat template that is not ChatML stays where it is, in the GGUF file: Ollama
    knows the common ones.

    Raises: InputError when the system prompt holds what ends one in a Modelfile.
    """
    check_system(system)
    lines = [f"FROM {model}"]
    lines += [f"ADAPTER {adapter}"] if adapter else []
    ends, rendered = _ends_and_question(tokenizer)
    before = rendered.partition(_ASKED)[0] if _ASKED in rendered else None
    if before is None:
        lines.append("# No TEMPLATE: the GGUF file holds the chat template, and Ollama knows the common ones.")
    else:
        lines.append(f"TEMPLATE {_QUOTES}{_CHATML}{_QUOTES}")
        if not system and before.startswith(_SYSTEM[0]) and before.endswith(_SYSTEM[1]):
            system = before.removeprefix(_SYSTEM[0]).removesuffix(_SYSTEM[1])
    if system:
        lines.append(f"SYSTEM {_QUOTES}{system}{_QUOTES}")
    lines += [f"PARAMETER stop {_quoted(end)}" for end in ends]
    for key, name in _PARAMETERS.items():
        value = (generation or {}).get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            lines.append(f"PARAMETER {name} {value:g}")
    return "\n".join(lines) + "\n"


def _ends_and_question(tokenizer: Sequence[Path]) -> tuple[list[str], str]:
    """(the tokens that end an answer, `_QUESTION` in the chat template); empty where there is none."""
    if not tokenizer:
        return [], ""
    try:
        found = load_tokenizer(tokenizer[0].parent)
    except InputError:
        return [], ""
    ends = [found.convert_ids_to_tokens(number) for number in sorted(found.eos_token_ids)]
    if not found.chat_template:
        return ends, ""
    messages = [{"role": "user", "content": _QUESTION}]
    try:
        rendered = found.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    # A chat template is a stranger's program and may fail; the Modelfile is usable without it.
    except Exception:
        return ends, ""
    return ends, str(rendered)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
