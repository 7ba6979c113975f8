"""Turns published training runs into `TrainerRun`s, one for each possible reading of what a line leaves open."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_loopai.memory.published import Attention, TrainerRun, attention_of
from mlx_loopai.models.shape import ModelShape

# mlx-lm's defaults; before autumn 2025 it adapted queries and values only.
DEFAULT_LAYERS, DEFAULT_RANK = 16, 8
_OLD_TARGETS = ("q_proj", "v_proj")
# A mean row length leaves the longest row of a batch open: up to the cap, or without one this many times the mean.
_LONGEST_OF_MEAN = 4
_PADDED_TO = 32
# Runs whose step is not the modelled one: other methods, hybrid layers, pictures.
_OTHER_STEP = re.compile(
    r"full fine-tuning|\bGRPO\b|\bORPO\b|\bDPO\b|\bDoRA\b|op level|torch|processed in steps|\bVLM\b|-VL-"
    r"|Qwen3\.[58]",
    re.I,
)
_OTHER_PROGRAM = re.compile(r"mlx-vlm|torch|mlxrl", re.I)
# Begins what follows a project's name, such as the page.
_SOURCE = re.compile(r"\s+/\s+|\s+\(|#| README| LORA")
_EVERY_ROW = re.compile(r"every row|all rows|most rows cut|is the longest", re.I)
_LONGEST = re.compile(r"longest rows? (?:of )?(\d+)(?:-(\d+))?", re.I)
_TRAINABLE = re.compile(r"trainable (\d+(?:\.\d+)?)M|(\d+(?:\.\d+)?)M trainable|LoRA (\d+(?:\.\d+)?)M", re.I)
_TOKENS = re.compile(r"~?(\d+)(?:-(\d+))? tokens an iteration", re.I)
_SIXTEEN_BIT = re.compile(r"bf16|16-bit", re.I)
_BITS = re.compile(r"\b([3468])-?bit", re.I)
_FLASH = re.compile(r"flash (?:\(linear-memory\) )?(?:attention|atten)", re.I)
_MLX = re.compile(r"\bmlx (\d+\.\d+\.\d+)")

# Hidden, intermediate, layers, heads, key/value heads, head size, vocabulary, tied head.
_Sizes = tuple[int, int, int, int, int, int, int, bool]
# (pattern of the model's name, family, sizes). Source: config.json of the released models.
_SHAPES: tuple[tuple[str, str, _Sizes], ...] = (
    (r"qwen2\.5.*0\.5b", "qwen2", (896, 4864, 24, 14, 2, 64, 151936, True)),
    (r"qwen2\.5.*1\.5b", "qwen2", (1536, 8960, 28, 12, 2, 128, 151936, True)),
    (r"qwen2\.5.*3b", "qwen2", (2048, 11008, 36, 16, 2, 128, 151936, True)),
    (r"qwen2\.5.*7b", "qwen2", (3584, 18944, 28, 28, 4, 128, 152064, False)),
    (r"qwen2\.5.*14b", "qwen2", (5120, 13824, 48, 40, 8, 128, 152064, False)),
    (r"qwen2\.5.*32b", "qwen2", (5120, 27648, 64, 40, 8, 128, 152064, False)),
    (r"qwen3-0\.6b", "qwen3", (1024, 3072, 28, 16, 8, 128, 151936, True)),
    (r"qwen3-1\.7b", "qwen3", (2048, 6144, 28, 16, 8, 128, 151936, True)),
    (r"qwen3-4b", "qwen3", (2560, 9728, 36, 32, 8, 128, 151936, True)),
    (r"qwen3-8b", "qwen3", (4096, 12288, 36, 32, 8, 128, 151936, False)),
    (r"qwen3-14b", "qwen3", (5120, 17408, 40, 40, 8, 128, 151936, False)),
    (r"qwen3-32b", "qwen3", (5120, 25600, 64, 64, 8, 128, 151936, False)),
    (r"llama-?3\.2.*1b", "llama", (2048, 8192, 16, 32, 8, 64, 128256, True)),
    (r"llama-?3\.2.*3b", "llama", (3072, 8192, 28, 24, 8, 128, 128256, True)),
    (r"llama-?3(?:\.1)?-.*8b", "llama", (4096, 14336, 32, 32, 8, 128, 128256, False)),
    (r"llama-?3(?:\.[13])?-.*70b", "llama", (8192, 28672, 80, 64, 8, 128, 128256, False)),
    (r"llama-?(?:2-)?7b", "llama", (4096, 11008, 32, 32, 32, 128, 32000, False)),
    (r"llama-?2-13b", "llama", (5120, 13824, 40, 40, 40, 128, 32000, False)),
    (r"tinyllama|1\.1b-chat", "llama", (2048, 5632, 22, 32, 4, 64, 32000, False)),
    (r"smollm2?-135m", "llama", (576, 1536, 30, 9, 3, 64, 49152, True)),
    (r"smollm2?-1\.7b", "llama", (2048, 8192, 24, 32, 32, 64, 49152, True)),
    (r"(?:mistral|zephyr).*7b", "mistral", (4096, 14336, 32, 32, 8, 128, 32000, False)),
    (r"phi-3(?:\.5)?-mini", "llama", (3072, 8192, 32, 32, 32, 96, 32064, False)),
    (r"phi-4-mini", "llama", (3072, 8192, 32, 24, 8, 128, 200064, True)),
    (r"gemma-2-2b", "llama", (2304, 9216, 26, 8, 4, 256, 256000, True)),
    (r"gemma-3.*1b", "llama", (1152, 6912, 26, 4, 1, 256, 262144, True)),
    (r"gemma-3.*4b", "llama", (2560, 10240, 34, 8, 4, 256, 262208, True)),
)


@dataclass(frozen=True)
class PublishedRun:
    """One line, as the runs that it may stand for, and what it reports, if anything.

    source: the project or file, so that several pages of one project are one source. readings: with the longest batch,
    which decides the peak; usual: with the mean batch, which decides the speed.
    """

    source: str
    chip: str | None
    readings: tuple[TrainerRun, ...]
    usual: tuple[TrainerRun, ...]
    peak_bytes: float | None
    steps_per_s: float | None


def published_run(row: Mapping[str, Any]) -> PublishedRun | None:
    """The line as a run; None when it is not a LoRA run of mlx-lm's step, or names no model that is known."""
    note = f"{row.get('note') or ''} {row.get('raw') or ''}"
    about = f"{row.get('model') or ''} {row.get('software') or ''} {note}"
    shape = known_shape(str(row.get("model") or ""))
    finished = not row.get("oom") or bool(row.get("peak_gb"))
    if shape is None or not finished or _OTHER_STEP.search(about) or _OTHER_PROGRAM.search(str(row.get("software"))):
        return None
    usual = tuple(_readings(row, shape, note, _usual(row, note)))
    peak = row.get("peak_gb")
    return PublishedRun(
        source=_SOURCE.split(str(row.get("source")))[0],
        chip=row.get("chip"),
        readings=tuple(_readings(row, shape, note, _longest(row, note))),
        usual=usual,
        peak_bytes=peak and float(peak) * 1e9,
        steps_per_s=_steps_per_s(row, usual),
    )


def _steps_per_s(row: Mapping[str, Any], readings: Sequence[TrainerRun]) -> float | None:
    """As reported, or from the tokens a second where every token counts: mlx-lm leaves out those of masked prompts."""
    if row.get("it_per_s"):
        return float(row["it_per_s"])
    tokens = {reading.tokens for reading in readings}
    if row.get("tokens_per_s") and not row.get("mask_prompt") and len(tokens) == 1:
        return float(row["tokens_per_s"]) / tokens.pop()
    return None


def known_shape(name: str) -> ModelShape | None:
    """The shape of a released model, from its name in any spelling."""
    plain = re.sub(r"[\s_]+", "-", name.lower())
    for pattern, architecture, sizes in _SHAPES:
        if re.search(pattern, plain):
            hidden, wide, layers, heads, kv_heads, head_dim, vocabulary, tied = sizes
            return ModelShape(
                architecture=architecture,
                vocab_size=vocabulary,
                hidden_size=hidden,
                n_layers=layers,
                n_heads=heads,
                n_kv_heads=kv_heads,
                head_dim=head_dim,
                intermediate_size=wide,
                tied_head=tied,
            )
    return None


def _readings(row: Mapping[str, Any], shape: ModelShape, note: str, lengths: Sequence[int]) -> Iterator[TrainerRun]:
    bits = _bits(row, note)
    batch = row.get("batch")
    if bits is None or not lengths or (batch is None and not _TOKENS.search(note)):
        return
    software = str(row.get("software") or "")
    checkpointing = row.get("grad_checkpoint")
    rank = int(row.get("rank") or DEFAULT_RANK)
    layers = _layers(row, shape)
    learns = _TRAINABLE.search(note)
    flash = _FLASH.search(software) or _FLASH.search(note)
    said = _MLX.search(software)
    attention: Attention = "linear" if flash else attention_of(said.group(1) if said else "")
    for length, blocks, checkpoints, targets in itertools.product(
        lengths,
        layers,
        (False, True) if checkpointing is None else (bool(checkpointing),),
        ((), _OLD_TARGETS) if learns is None else ((),),
    ):
        numbers = (
            shape.lora_parameters(rank, targets, blocks)
            if learns is None
            else int(1e6 * float(next(group for group in learns.groups() if group)))
        )
        yield TrainerRun(
            shape=shape,
            bits=bits,
            batch=int(batch or 1),
            longest=_padded(length, row.get("max_seq")),
            layers=blocks,
            lora_parameters=numbers,
            checkpointing=checkpoints,
            attention=attention,
            fused_loss=bool(re.search(r"fused loss", note, re.I)) and not re.search(r"stock loss", note, re.I),
        )


def _bits(row: Mapping[str, Any], note: str) -> int | None:
    if row.get("bits"):
        return int(row["bits"])
    said = _BITS.search(str(row.get("model") or ""))
    if said:
        return int(said.group(1))
    return 16 if _SIXTEEN_BIT.search(f"{row.get('model') or ''} {note}") else None


def _longest(row: Mapping[str, Any], note: str) -> list[int]:
    """The possible lengths of the longest row of a batch; none when the line says nothing of it."""
    most, said = row.get("max_seq"), row.get("tokens_per_row")
    named = _LONGEST.search(note)
    if named:
        return [int(named.group(2) or named.group(1))]
    if said and (_EVERY_ROW.search(note) or (most and said >= 0.95 * most)):
        return [int(said)]
    mean = _usual(row, note)
    return [*mean, *(int(most or _LONGEST_OF_MEAN * each) for each in mean)]


def _usual(row: Mapping[str, Any], note: str) -> list[int]:
    """The mean length of a row, where the line says it."""
    if row.get("tokens_per_row"):
        return [int(row["tokens_per_row"])]
    tokens = _TOKENS.search(note)
    return [int(tokens.group(2) or tokens.group(1)) // int(row.get("batch") or 1)] if tokens else []


def _layers(row: Mapping[str, Any], shape: ModelShape) -> list[int]:
    said = row.get("lora_layers")
    if said:
        return [min(int(said), shape.n_layers)]
    return sorted({min(DEFAULT_LAYERS, shape.n_layers), shape.n_layers})


def _padded(length: int, most: int | None) -> int:
    padded = 1 + _PADDED_TO * -(-length // _PADDED_TO)
    return min(padded, most) if most else padded
