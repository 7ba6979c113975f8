"""Turns the user's conversion options into a plan for one checkpoint: form of each tensor, size and writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converters.output import OutputFolder
from converters.quantization import WORDS as MLX_WORDS
from converters.quantization import Forms, Scheme, is_kept, parse_rules, plan_forms, rounding, scheme_of, stored_bytes
from converters.rounding import Rounding
from converters.tensors import DTYPE_OPTIONS, Checkpoint, TensorEntry
from converters.vision_tower import VisionTower, Written, read_tower
from converters.writers import Progress
from converters.writers import gguf as gguf_writer
from converters.writers.huggingface import write_huggingface
from converters.writers.k_quants import K_QUANTS, check_engine
from converters.writers.mlx import write_mlx
from converters.writers.modelfile import check_system
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.architectures import ARCHITECTURES
from mlx_loopai.models.encoder import ENCODERS
from mlx_loopai.models.vision.added import added_files

FORMATS = ("mlx", "hf", "gguf")
GGUF_WORDS = (*gguf_writer.WORDS, *K_QUANTS)


@dataclass(frozen=True)
class Target:
    """The options of a conversion. `to` is mlx, hf or gguf; `dtype` fp32, bf16, fp16 or None for the source's own.

    `quantize` is one of MLX's words (`4`, `mxfp4`, ...) or, for gguf, q8_0, q4_0 or a K-quant such as q4_k_m; `keep`
    holds rules such as `lm_head=8bit`. `steer` is what `steering.Steering.parse` takes, or None.
    `modelfile`: whether Ollama's Modelfile is written beside a GGUF file; `system` is its system prompt, in place of
    the chat template's own. `text_only` leaves out what makes a model see; a GGUF file never has it.
    """

    to: str = "mlx"
    dtype: str | None = None
    quantize: str | None = None
    group_size: int | None = None
    keep: tuple[str, ...] = ()
    steer: str | None = None
    modelfile: bool = True
    system: str = ""
    text_only: bool = False

    def check(self) -> None:
        """Refuse options that exclude each other. Raises: InputError."""
        words = {"mlx": MLX_WORDS, "hf": (), "gguf": GGUF_WORDS}[self.to]
        if self.quantize is not None and self.quantize not in words:
            known = f"it takes {', '.join(words)}" if words else "it holds fp32, bf16 and fp16 (`dtype`)"
            raise InputError(
                tr(
                    "`quantize` {quantize}: `to` {to} has no such form; {known}",
                    quantize=self.quantize,
                    to=self.to,
                    known=known,
                )
            )
        if self.to != "mlx" and (self.keep or self.group_size is not None):
            raise InputError(tr("`to` {to}: `keep` and `group_size` belong to `to` mlx; leave them out", to=self.to))
        if self.group_size is not None and self.quantize is None:
            raise InputError(tr("`group_size` has no effect without `quantize`; add `quantize` 4 or leave it out"))
        if self.system and not (self.to == "gguf" and self.modelfile):
            raise InputError(tr("`system` has no effect without a Modelfile; give `to` gguf, or leave it out"))
        check_system(self.system)


@dataclass(frozen=True)
class Plan:
    """A target applied to one checkpoint.

    `left_dense` counts the matrices that the wanted quantisation does not fit; `notes` name them, and what was chosen.
    `tower`, `added`: what is written beside the text model of a model that sees: the tensors of its tower, or the files
    of the encoder that `vision add` gave it.
    """

    target: Target
    forms: Forms
    n_bytes: int
    config: Mapping[str, Any]
    left_dense: int = 0
    notes: tuple[str, ...] = ()
    tower: VisionTower | None = None
    added: tuple[Path, ...] = ()

    @property
    def label(self) -> str:
        """The main form in a word: bf16, 4bit, mxfp4, q8_0."""
        dense = next(name for name, code in DTYPE_OPTIONS.items() if code == self.forms.dtype)
        word = self.target.quantize
        if word is None:
            return dense
        form = f"{word}bit" if word.isdecimal() else word
        return f"{form} and {'fp16' if self.target.to == 'gguf' else dense}" if self.left_dense else form

    @property
    def is_text_only(self) -> bool:
        return self.target.text_only or self.target.to == "gguf"

    @property
    def gguf_form(self) -> str:
        return self.target.quantize or self.forms.dtype

    @property
    def scratch_bytes(self) -> int:
        """Bytes of temporary files on the disk while the output is written, besides the output's own."""
        made_by = K_QUANTS.get(self.gguf_form) if self.target.to == "gguf" else None
        return int(self.n_bytes * made_by.bits_per_weight / 16) if made_by else 0

    def rounding(self, entry: TensorEntry) -> Rounding | None:
        """What the output's quantisation does to float32 rows of `entry`; None when it stays dense."""
        if self.target.to == "gguf":
            return gguf_writer.rounding(entry, self.gguf_form, self.config)
        form = self.forms.by_name.get(entry.name)
        if not isinstance(form, Scheme) or self.target.to != "mlx":
            return None
        return rounding(form, self.forms.dtype)

    def write_folder(
        self, folder: OutputFolder, checkpoint: Checkpoint, tokenizer: Sequence[Path], on_progress: Progress
    ) -> int:
        """Write an MLX or Hugging Face folder. Returns: tensors written. Raises: InputError, OSError."""
        written = Written(checkpoint, self.tower, self.added)
        if self.target.to == "hf":
            return write_huggingface(folder, written, tokenizer, self.forms.dtype, on_progress)
        return write_mlx(folder, written, tokenizer, self.forms, on_progress)

    def write_file(self, path: Path, checkpoint: Checkpoint, tokenizer: Sequence[Path], on_progress: Progress) -> int:
        """Write a GGUF file. Returns: tensors written. Raises: InputError, OSError."""
        return gguf_writer.write_gguf(path, checkpoint, tokenizer, self.gguf_form, on_progress)


def make_plan(target: Target, checkpoint: Checkpoint) -> Plan:
    """`target` for `checkpoint`. Raises: InputError for options that do not fit each other or the model."""
    target.check()
    plan = _with_added(_text_plan(target, checkpoint), checkpoint.source)
    tower = None if plan.is_text_only else read_tower(checkpoint)
    taken = set() if tower is None else set(tower.names)
    left = [entry.name for entry in checkpoint.others if entry.name not in taken]
    if left:
        note = f"{len(left)} tensors that are no part of the text model are left out, such as {left[0]}"
        plan = replace(plan, notes=(*plan.notes, note))
    if tower is None:
        return plan
    return replace(plan, tower=tower, n_bytes=plan.n_bytes + tower.n_bytes(plan.forms.dtype))


def _with_added(plan: Plan, source: Path) -> Plan:
    """The plan with the encoder that was added to the model in `source`, or a note that it is left out."""
    added = added_files(source)
    if not added or not plan.is_text_only:
        return replace(plan, added=added, n_bytes=plan.n_bytes + sum(path.stat().st_size for path in added))
    note = f"the encoder of pictures in {added[0].parent.name}/ is left out: the output reads text only"
    return replace(plan, notes=(*plan.notes, note))


def _text_plan(target: Target, checkpoint: Checkpoint) -> Plan:
    if checkpoint.config["model_type"] in ENCODERS and (target.to != "mlx" or target.quantize is not None):
        raise InputError(
            tr(
                "{source}: is a text encoder, which becomes an MLX folder in fp32, bf16 or fp16 only",
                source=checkpoint.source,
            )
        )
    dtype = checkpoint.dtype if target.dtype is None else DTYPE_OPTIONS[target.dtype]
    if target.to == "gguf":
        return _gguf_plan(target, checkpoint, dtype)
    scheme = scheme_of(target.quantize, target.group_size) if target.quantize else None
    tied = bool(checkpoint.config.get("tie_word_embeddings"))
    rules = parse_rules(target.keep, target.group_size)
    architecture = ARCHITECTURES.get(checkpoint.config["model_type"])
    dense = tuple(f"{name}.weight" for name in architecture.never_adapted) if architecture else ()
    by_name = plan_forms(checkpoint.entries, dtype, scheme, rules, tied, dense)
    if architecture is not None and architecture.kept_dtypes:
        by_name |= {
            entry.name: entry.dtype for entry in checkpoint.entries if entry.name.endswith(architecture.kept_dtypes)
        }
    n_bytes = sum(stored_bytes(entry, by_name[entry.name], dtype) for entry in checkpoint.entries)
    plan = Plan(target, Forms(dtype, by_name, scheme), n_bytes=n_bytes, config=checkpoint.config)
    free = [
        entry.name for entry in _matrices(checkpoint) if not (is_kept(rules, entry, tied) or entry.name.endswith(dense))
    ]
    return plan if scheme is None else _with_exceptions(plan, scheme, free)


def _with_exceptions(plan: Plan, scheme: Scheme, names: Sequence[str]) -> Plan:
    """The plan with what it says about those of the matrices `names` that are not stored as `scheme`."""
    dense = [name for name in names if isinstance(plan.forms.by_name[name], str)]
    smaller = [name for name in names if name not in dense and plan.forms.by_name[name] != scheme]
    if dense and not any(isinstance(form, Scheme) for form in plan.forms.by_name.values()):
        raise InputError(
            tr(
                "`quantize` {quantize}: no matrix has rows that divide into groups of {group_size} or fewer; "
                "leave it out",
                quantize=plan.target.quantize,
                group_size=scheme.group_size,
            )
        )
    notes = [_left_dense(dense, len(names))] if dense else []
    if smaller:
        notes.append(
            tr(
                "{count} of {total} matrices are quantised in smaller groups, since {group_size} does not divide "
                "their rows, such as {smaller}",
                count=len(smaller),
                total=len(names),
                group_size=scheme.group_size,
                smaller=smaller[0],
            )
        )
    return replace(plan, left_dense=len(dense), notes=tuple(notes))


def _gguf_plan(target: Target, checkpoint: Checkpoint, dtype: str) -> Plan:
    form = target.quantize or dtype
    if form in K_QUANTS:
        check_engine(form)
    n_bytes = gguf_writer.gguf_bytes(checkpoint, form)
    plan = Plan(target, Forms(dtype, {}), n_bytes=n_bytes, config=checkpoint.config)
    if target.quantize is None:
        return plan
    matrices = _matrices(checkpoint)
    dense = [entry.name for entry in matrices if plan.rounding(entry) is None]
    if len(dense) == len(matrices):
        raise InputError(
            tr("`quantize` {form}: no matrix has rows that divide into groups of 32; leave it out", form=form)
        )
    return replace(plan, left_dense=len(dense), notes=(_left_dense(dense, len(matrices)),) if dense else ())


def _matrices(checkpoint: Checkpoint) -> list[TensorEntry]:
    return [entry for entry in checkpoint.entries if entry.is_matrix]


def _left_dense(names: Sequence[str], of: int) -> str:
    return f"{len(names)} of {of} matrices stay dense: no groups divide their rows, such as {names[0]}"
