"""Chooses the settings with which a training run fits a machine, and says why.

Pure: shapes, options and a machine in; a plan out. Where memory is short, settings are given up in this order: tokens
per micro-batch, rows of a loss chunk, no checkpointing (it costs time), an unquantised base (4 bits instead), adapters
in the first blocks. After each, the earlier ones start again from their best value. When nothing fits, the plan has
`fits` False and itemises the smallest attempt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mlx_loopai.config import PreferenceOptions, RunConfig, TrainOptions
from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.language import tr
from mlx_loopai.memory.guard_terms import GuardTerms
from mlx_loopai.memory.machine import EVIDENCE, Machine
from mlx_loopai.memory.phases import PROMPT_TOKENS, Answering
from mlx_loopai.memory.request import NOTHING_KNOWN, Known, Request
from mlx_loopai.memory.sizes import FLOAT_BYTES, StepOptions
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.units import format_bytes, parse_bytes

# Share of the working set that a run may use; the rest is for the prediction's error and for other programs on the GPU.
BUDGET_SHARE = 0.85


@dataclass(frozen=True)
class Choice:
    """One setting of the run and why it has this value."""

    name: str
    value: Any
    reason: str


@dataclass(frozen=True)
class MemoryPlan:
    """Settings of a run and the bytes they need. `terms`: bytes per term, adding up to `total_bytes`.

    phases: bytes of each phase in all, of which `total_bytes` is the largest. micro_tokens: most padded tokens of a
    micro-batch. base_precision: fp32, bf16, fp16 or N-bit. lora_layers: adapt the last N blocks, 0 for all.
    importance_tokens: most padded tokens of a batch on which importance is measured. rehearsal_rows: prompts answered
    together; sampling_rows: answers drawn together before a step. They are 0 where a run has no such phase. options:
    the same settings in the form that `predict` takes. With `fits` False the settings are the smallest that were tried.
    """

    fits: bool
    budget_bytes: int
    total_bytes: int
    terms: dict[str, int]
    phases: dict[str, int]
    choices: tuple[Choice, ...]
    calibrated_on: str
    options: StepOptions
    importance_tokens: int
    rehearsal_rows: int
    sampling_rows: int
    micro_tokens: int
    checkpointing: bool
    chunk_rows: int
    base_precision: str
    lora_layers: int
    machine: Machine

    @property
    def peak_bytes(self) -> int:
        """What `mx.get_peak_memory()` should show."""
        return self.total_bytes - self.terms["cache"] - self.terms["python"]

    def require_fit(self) -> MemoryPlan:
        """This plan. Raises: LoopaiError with the itemised terms when it does not fit."""
        if self.fits:
            return self
        largest_first = sorted(self.terms.items(), key=lambda term: -term[1])
        items = ", ".join(f"{tr(name)} {format_bytes(size)}" for name, size in largest_first if size)
        raise LoopaiError(
            tr(
                "the run needs {needed} at least, but the budget on {name} is {budget} ({terms}); {advice}",
                needed=format_bytes(self.total_bytes),
                name=self.machine.name,
                budget=format_bytes(self.budget_bytes),
                terms=items,
                advice=_advice(self),
            )
        )


def budget_of(machine: Machine, budget: str = "auto") -> int:
    """Bytes that a run may use: min(0.85 W, memory minus the system's reserve), or what the user said.

    Raises: InputError for a size that cannot be read.
    """
    if budget.strip().lower() != "auto":
        return parse_bytes(budget, "memory.budget")
    return min(int(BUDGET_SHARE * machine.working_set_bytes), machine.ram_bytes - machine.reserve_bytes)


def plan(
    shape: ModelShape,
    config: RunConfig,
    machine: Machine,
    guard: GuardTerms,
    known: Known = NOTHING_KNOWN,
) -> MemoryPlan:
    """The most wanted settings that fit `machine`, with bytes per term and a reason for each.

    guard: what the guards of `config` need. known: what is known of the data and of the machine.

    Raises: InputError for a budget or an adapter target that cannot be read, or where the weights of a quantised base
    are to learn.
    """
    if config.trains_weights and shape.quantization is not None:
        raise InputError(
            tr(
                "train.method: full changes the weights themselves, and those of this base have {bits} bits; give the "
                "base that it was quantised from, or train.method: lora",
                bits=shape.quantization.bits,
            )
        )
    request = Request(
        shape=shape,
        machine=machine,
        budget_bytes=budget_of(machine, config.memory.budget),
        known=known,
        guard=guard,
        dtype=config.dtype,
        lora=config.lora,
        train=config.train,
        memory=config.memory,
        replay=config.replay,
        replay_shares=tuple(phase.replay_share for phase in config.trained_phases if config.needs_rehearsal),
        draws=draws_of(config.train, config.preference, known),
    )
    chosen = next((options for options in request.attempts() if request.fits(options)), None)
    fits = chosen is not None
    if chosen is None:
        chosen = min(request.attempts(), key=lambda options: request.predict(options).total_bytes)
    prediction, sizes = request.predict(chosen), request.phases(chosen)
    return MemoryPlan(
        fits=fits,
        budget_bytes=request.budget_bytes,
        total_bytes=prediction.total_bytes,
        terms=prediction.terms,
        phases=prediction.phases,
        choices=_choices(request, chosen, fits),
        calibrated_on=prediction.calibrated_on,
        options=chosen,
        importance_tokens=sizes.importance_tokens,
        rehearsal_rows=sizes.rehearsal_rows,
        sampling_rows=sizes.sampling.rows if sizes.sampling else 0,
        micro_tokens=chosen.micro_tokens,
        checkpointing=chosen.checkpointing,
        chunk_rows=chosen.chunk_rows,
        base_precision=chosen.base_precision,
        lora_layers=chosen.lora_layers,
        machine=machine,
    )


@dataclass(frozen=True)
class _Knob:
    """A field of `StepOptions` that the plan may choose, and how its value is explained.

    fixed: who set it, "" when the plan did. reason: the explanation of the `preferred` value.
    """

    name: str
    preferred: Any
    fixed: str
    reason: str


def draws_of(train: TrainOptions, preference: PreferenceOptions, known: Known) -> Answering | None:
    """The answers that a run draws before each step; None where it draws none."""
    if not preference.takes_prompts:
        return None
    rows = train.rows_per_step * preference.group
    return Answering(rows, known.longest_asked or PROMPT_TOKENS, preference.answer_tokens)


def _choices(request: Request, chosen: StepOptions, fits: bool) -> tuple[Choice, ...]:
    found = [_budget_choice(request)]
    for knob in _knobs(request):
        value = getattr(chosen, knob.name)
        if knob.fixed or value == knob.preferred:
            reason = knob.fixed or knob.reason
        else:
            reason = _why_given_up(request, chosen, knob, fits)
        if knob.name == "lora_layers":
            value = request.shape.lora_layers(value)
        found.append(Choice(knob.name, value, reason))
    phases = request.phases(chosen)
    if phases.importance_tokens:
        reason = tr("padded tokens of a batch on which importance is measured")
        found.append(Choice("importance_tokens", phases.importance_tokens, reason))
    if request.known.pictures is not None:
        reason = tr("features of the pictures, in a file of the cache folder")
        found.append(Choice("feature_file_bytes", request.known.pictures.file_bytes, reason))
    if phases.sampling is not None:
        reason = tr(
            "answers that the model draws together before a step, each of at most {tokens} tokens",
            tokens=phases.sampling.answer_tokens,
        )
        found.append(Choice("sampling_rows", phases.sampling.rows, reason))
    if phases.rehearsal_rows:
        reason = tr("general prompts that the base answers together")
        found.append(Choice("rehearsal_rows", phases.rehearsal_rows, reason))
    return tuple(found)


def _knobs(request: Request) -> tuple[_Knob, ...]:
    """The settings in the order in which they are given up."""
    memory, rows = request.memory, request.micro_tokens()[0] // request.width

    def by_user(said: object) -> str:
        return tr("set by you") if said else ""

    quantized = tr("the checkpoint's own") if request.shape.quantization is not None else ""
    return (
        _Knob(
            "micro_tokens",
            request.micro_tokens()[0],
            by_user(memory.micro_tokens),
            tr("{rows} x {width} tokens at once; more would not be faster", rows=rows, width=request.width),
        ),
        _Knob(
            "chunk_rows",
            request.chunk_rows()[0],
            by_user(memory.chunk_rows),
            tr("rows of logits alive at once in the loss"),
        ),
        _Knob("checkpointing", False, by_user(memory.checkpointing != "auto"), tr("not needed, and would cost time")),
        _Knob(
            "base_precision",
            request.precisions()[0],
            quantized or by_user(request.dtype != "auto"),
            tr("fits as it is"),
        ),
        _Knob("lora_layers", 0, by_user(request.lora.layers), tr("every block learns")),
    )


def _why_given_up(request: Request, chosen: StepOptions, knob: _Knob, fits: bool) -> str:
    would_need = request.predict(replace(chosen, **{knob.name: knob.preferred})).total_bytes
    cost = {
        "micro_tokens": tr("smaller micro-batches, summed to the same step"),
        "chunk_rows": tr("a smaller loss chunk, the same result"),
        "checkpointing": tr("same gradients, but blocks are computed again: about a third slower"),
        "base_precision": tr("the base is quantised while it is read, at some loss of quality"),
        "lora_layers": tr("only the last blocks learn"),
    }[knob.name]
    if not fits or would_need <= request.budget_bytes:
        # The alternative would fit only by giving up something that costs more.
        return cost
    size = format_bytes(would_need)
    if knob.name == "checkpointing":
        return tr("without it the run would need {size}; {cost}", size=size, cost=cost)
    if knob.name == "lora_layers":
        return tr("all blocks would need {size}; {cost}", size=size, cost=cost)
    return tr("{value} would need {size}; {cost}", value=knob.preferred, size=size, cost=cost)


def _budget_choice(request: Request) -> Choice:
    machine, asked = request.machine, request.memory.budget
    automatic = budget_of(machine)
    if asked.strip().lower() != "auto":
        own = format_bytes(automatic)
        if request.budget_bytes > automatic:
            return Choice(
                "budget", asked, tr("set by you, more than is safe here; this machine's own is {own}", own=own)
            )
        return Choice("budget", asked, tr("set by you; this machine's own is {own}", own=own))
    working_set = tr(
        "{share:.0%} of the working set of {size} ({evidence})",
        share=BUDGET_SHARE,
        size=format_bytes(machine.working_set_bytes),
        evidence=tr(EVIDENCE[machine.evidence]),
    )
    ram, system = format_bytes(machine.ram_bytes), format_bytes(machine.reserve_bytes)
    reserve = tr("{ram} minus {system} for the system", ram=ram, system=system)
    by_working_set = automatic == int(BUDGET_SHARE * machine.working_set_bytes)
    return Choice("budget", format_bytes(automatic), working_set if by_working_set else reserve)


def _advice(plan: MemoryPlan) -> str:
    """What helps most against the largest term."""
    largest = max(plan.terms, key=lambda name: plan.terms[name])
    if largest == "weights" and plan.options.whole:
        return tr("set train.method to lora, or take a smaller model")
    if largest == "weights":
        if plan.base_precision in FLOAT_BYTES:
            return tr("take a 4-bit base or a smaller model")
        return tr("take a smaller model")
    if largest in ("activations", "attention", "loss"):
        return tr("lower train.max_tokens or leave memory.* to the plan")
    if not plan.options.whole:
        return tr("lower lora.rank or raise memory.budget")
    if plan.options.moments == "fp32" and plan.options.optimizer in ("adam", "adamw"):
        return tr("set train.moments to 8-bit, or train.method to lora")
    return tr("set train.method to lora, or take a smaller model")
