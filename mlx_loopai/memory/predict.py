"""How many bytes a training run needs, term by term, from sizes alone.

Pure: no mlx. `memory.sizes` counts what a step keeps; its few fitted constants come from measured steps on CPU
(docs/memory.md). On Metal what published runs needed is added (`memory.published`), until a probe has measured steps
there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cache

from mlx_loopai.errors import InputError
from mlx_loopai.memory.phases import PhaseSizes, phase_bytes
from mlx_loopai.memory.published import block_bytes, calibrated_on, published, scores_bytes
from mlx_loopai.memory.sizes import (
    FLOAT_BYTES,
    VECTOR_BYTES,
    Backend,
    Constants,
    Sizes,
    StepOptions,
    fitted,
    float_bytes,
    kept_bytes,
    loss_bytes,
    work_bytes,
)
from mlx_loopai.models.pass_sizes import QUANTIZATION_GROUP
from mlx_loopai.models.shape import ModelShape, Quantization
from mlx_loopai.units import MIB

QUANTIZED = {f"{bits}-bit": Quantization(bits, QUANTIZATION_GROUP) for bits in (8, 6, 5, 4, 3, 2)}
_CALIBRATED_ON_CPU = "MLX 0.32 on a Linux x86 CPU"
# Interpreter, mlx, mlx-lm and a tokenizer of 150,000 entries: 376 MiB resident before any data, and room for rows.
PYTHON_BYTES = 512 * MIB
# Freed buffers kept for reuse: every width of a batch asks for the same sizes again.
_CACHE_SHARE = 0.25
CACHE_FLOOR_BYTES = 64 * MIB
# The distance from the base is a lazy graph: as many chunks of scores are alive, and buffers for each.
_DIVERGENCE_CHUNKS, _DIVERGENCE_BUFFERS = 3, 6
# Numbers that mlx.optimizers keep for each number that learns; SGD's stay 0 without momentum, but are there.
_MOMENTS = {"sgd": 1, "lion": 1, "muon": 1, "adam": 2, "adamw": 2}
# An entry's; of 8 bits, blocks of 256 have a scale (training/eight_bit.py).
_MOMENT_BYTES = {"fp32": 4.0, "8-bit": 1 + 4 / 256}
# Copies of a matrix, float32, that are alive while a whole update of it is made.
_MATRIX_BUFFERS = {"fp32": 6, "8-bit": 20}
_TRANSIENT = ("activations", "attention", "loss")
# What a probe measures together.
_MEASURED = (*_TRANSIENT, "runtime")


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes per term, adding up to the run's need; `phases`: what each phase of the run needs in all.

    The terms are those of a training step, and `phases` among them is what the largest other phase needs beyond it.
    `cache` and `python` are outside what `mx.get_peak_memory()` counts.
    """

    terms: dict[str, int]
    calibrated_on: str
    phases: dict[str, int] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        return sum(self.terms.values())

    @property
    def peak_bytes(self) -> int:
        """What `mx.get_peak_memory()` should show over the whole run."""
        return self.total_bytes - self.terms["cache"] - self.terms["python"]


@dataclass(frozen=True)
class Correction:
    """Measured over predicted bytes of what a step needs besides what rests between steps; `source` says where from."""

    factor: float
    source: str


def predict(
    shape: ModelShape,
    options: StepOptions,
    backend: Backend,
    phases: PhaseSizes | None = None,
    correction: Correction | None = None,
    constants: Constants | None = None,
) -> MemoryPrediction:
    """Bytes per term at the largest moment of a run: of its training step, or of a phase before or beside it.

    A step's largest moment is the loss, the backward pass of a block or the optimizer's update: `loss` is what the loss
    needs, `activations` and `attention` what is kept and what a block's backward pass needs beyond the loss,
    `gradients` the sum of earlier micro-batches and what the own ones take beyond what is kept, `optimizer` holds what
    the update needs beyond all, and `runtime` what MLX has beside all that is counted in runs on Macs. So the terms add
    up. Without `phases` only a step counts.

    Raises: InputError for an unknown precision or adapter target.
    """
    step = _largest_step(shape, options, backend, constants or fitted())
    source = calibrated_on() if backend == "metal" else _CALIBRATED_ON_CPU
    if correction is not None:
        step |= {name: int(step[name] * correction.factor) for name in _MEASURED}
        source = correction.source
    needs = {"training": sum(step.values())}
    if phases is not None:
        resting = {name: step[name] for name in ("weights", "adapter", "runtime")}
        resting["penalty"] = guard_bytes(shape, options)
        resting["optimizer"] = moment_bytes(shape, options)
        needs |= phase_bytes(shape, options, backend, phases, resting)
    cache = max(CACHE_FLOOR_BYTES, int(_CACHE_SHARE * sum(step[name] for name in _TRANSIENT)))
    # The cache is emptied between phases; training's is filled at the width of its batches again and again.
    totals = {name: size + PYTHON_BYTES + CACHE_FLOOR_BYTES for name, size in needs.items()}
    totals["training"] += cache - CACHE_FLOOR_BYTES
    beyond = max(totals.values()) - totals["training"]
    terms = step | {"phases": beyond, "cache": cache, "python": PYTHON_BYTES}
    return MemoryPrediction(terms, source, totals)


def _largest_step(shape: ModelShape, options: StepOptions, backend: Backend, constants: Constants) -> dict[str, int]:
    """Bytes of the micro-batch that needs most: of the run's own rows, or of rehearsal rows and their distance."""
    own = _step_terms(shape, options, backend, constants)
    rehearsed = options.rehearsed
    if rehearsed is None:
        return own
    width = min(rehearsed.width, options.micro_tokens)
    batch = replace(
        options,
        micro_tokens=min(rehearsed.rows, options.micro_tokens // width) * width,
        width=width,
        supervised_share=min(1.0, rehearsed.targets / width),
        guard=replace(options.guard, diverges=options.guard.diverges_on_answers),
    )
    return max(own, _step_terms(shape, batch, backend, constants), key=lambda terms: sum(terms.values()))


def _step_terms(shape: ModelShape, options: StepOptions, backend: Backend, constants: Constants) -> dict[str, int]:
    """Bytes of a training step. Adapters, gradients and moments are float32."""
    trained = 4 * trained_parameters(shape, options)
    sizes = Sizes.of(shape, options, backend)
    loss = loss_bytes(sizes, backend, constants)
    kept, kept_attention = kept_bytes(sizes, options.checkpointing, constants)
    work, work_attention = work_bytes(sizes, options.checkpointing, constants)
    if backend == "metal":
        work, work_attention = _seen_on_macs(shape, options, work, work_attention)
    # A micro-batch's own gradients come as what is kept goes: whichever is larger counts.
    own = trained * (1 if options.whole else constants.gradients + constants.adapter_half * sizes.half)
    late = max(0.0, own - kept - kept_attention)
    beyond = max(0.0, work + work_attention + late - loss)
    late = min(late, beyond)
    share = work_attention / (work + work_attention)
    terms = {
        "runtime": int(published().process_bytes) if backend == "metal" else 0,
        "weights": weight_bytes(shape, options.base_precision),
        "adapter": adapter_bytes(shape, options),
        # The sum so far (of an adapter also the micro-batch before), and what this one's own need.
        "gradients": int((1 if options.whole else 2) * trained * options.accumulates + late),
        "optimizer": moment_bytes(shape, options),
        "penalty": guard_bytes(shape, options),
        "activations": int(kept + (beyond - late) * (1 - share)),
        "attention": int(kept_attention + (beyond - late) * share),
        "loss": int(loss),
        "pictures": picture_batch_bytes(shape, options),
    }
    update = _update_bytes(shape, options, constants) - sum(terms[name] for name in ("gradients", *_TRANSIENT))
    return terms | {"optimizer": terms["optimizer"] + max(0, update)}


def picture_batch_bytes(shape: ModelShape, options: StepOptions) -> int:
    """What pictures add to a micro-batch; 0 for a run of text."""
    if options.pictures is None:
        return 0
    rows = max(1, options.micro_tokens // options.width)
    return options.pictures.batch_bytes(rows, shape.hidden_size, options.micro_tokens)


def _update_bytes(shape: ModelShape, options: StepOptions, constants: Constants) -> int:
    """What the optimizer's update works on, gradients included: all that learns together, or one matrix after the other
    (training/update_in_turn.py)."""
    trained = 4 * trained_parameters(shape, options)
    if options.whole:
        vector = min(trained, max(VECTOR_BYTES, 4 * _largest_matrix(shape)))
        return trained + _MATRIX_BUFFERS[options.moments] * vector
    return int(constants.update * trained + constants.update_vector * min(trained, VECTOR_BYTES))


def _largest_matrix(shape: ModelShape) -> int:
    return max(linear.out * linear.into for block in shape.blocks for linear in block.linears.values())


def _seen_on_macs(shape: ModelShape, options: StepOptions, work: float, attention: float) -> tuple[float, float]:
    """`work` and `attention` of a block's backward pass, at least as much as published runs on Macs needed.

    The two moments of such a pass, attention's scores and the rest, do not meet there.
    """
    found = published()
    if options.checkpointing:
        block = found.block * block_bytes(shape, options.micro_tokens * float_bytes(options.compute))
        work = max(work, block - attention)
    if options.quadratic_attention:
        rows = max(1, options.micro_tokens // options.width)
        attention = max(attention, scores_bytes(shape, rows, options.width, found) - work)
    return work, attention


# Cached, as the others below: a fit asks thousands of times for the same sizes.
@cache
def resting_bytes(shape: ModelShape, options: StepOptions) -> int:
    """What is there between steps without a penalty: weights, adapter and the optimizer's moments."""
    return weight_bytes(shape, options.base_precision) + adapter_bytes(shape, options) + moment_bytes(shape, options)


@cache
def trained_parameters(shape: ModelShape, options: StepOptions) -> int:
    """Numbers that learn: the factors, DoRA's magnitudes, one an output, and a projector; or whole matrices."""
    if options.whole:
        return shape.lora_matrices(options.lora_targets, options.lora_layers)
    factors = shape.lora_parameters(options.lora_rank, options.lora_targets, options.lora_layers)
    factors += options.pictures.projector if options.pictures else 0
    return factors + (_outputs(shape, options) if options.dora else 0)


@cache
def adapter_bytes(shape: ModelShape, options: StepOptions) -> int:
    """What learns, and the squared row norms that DoRA keeps beside its magnitudes."""
    return 4 * (trained_parameters(shape, options) + (_outputs(shape, options) if options.dora else 0))


@cache
def moment_bytes(shape: ModelShape, options: StepOptions) -> int:
    """What the optimizer keeps. Raises: InputError for an unknown optimizer.

    Adafactor keeps sums of the rows and of the columns of a matrix, and an entry each of a vector.
    """
    if options.optimizer == "adafactor":
        vectors = shape.lora_parameters(1, options.lora_targets, options.lora_layers)
        modules = shape.lora_modules(options.lora_targets, options.lora_layers)
        if options.whole:
            return 4 * vectors
        magnitudes = _outputs(shape, options) if options.dora else 0
        return 4 * (vectors + 2 * options.lora_rank * modules + magnitudes)
    if options.optimizer not in _MOMENTS:
        known = ", ".join([*_MOMENTS, "adafactor"])
        raise InputError(f"optimizer {options.optimizer!r} is unknown; known: {known}")
    return int(_MOMENT_BYTES[options.moments] * _MOMENTS[options.optimizer] * trained_parameters(shape, options))


def _outputs(shape: ModelShape, options: StepOptions) -> int:
    """Sum of D_out over the adapted linears."""
    return shape.lora_outputs(options.lora_targets, options.lora_layers)


@cache
def weight_bytes(shape: ModelShape, precision: str) -> int:
    """Bytes of the frozen base. A quantised shape keeps its own form; norms and biases are never quantised.

    Raises: InputError for an unknown precision.
    """
    quantization = shape.quantization or QUANTIZED.get(precision)
    if quantization is None:
        return shape.parameters * float_bytes(precision)
    vector_bytes = FLOAT_BYTES.get(precision, 2)
    return int(shape.matrix_parameters * quantization.bits_per_weight / 8) + shape.vector_parameters * vector_bytes


@cache
def guard_bytes(shape: ModelShape, options: StepOptions) -> int:
    """What the guards keep and work on, from the factors that they hand in. Counted, not fitted.

    The distance from the base keeps its scores and the adapted model's, chunks ahead.
    """
    guard = options.guard
    numbers = guard.weights * shape.lora_matrices(options.lora_targets, options.lora_layers)
    numbers += guard.largest_layers * _largest_matrix(shape)
    numbers += guard.vectors * shape.lora_parameters(1, options.lora_targets, options.lora_layers)
    numbers += guard.adapters * trained_parameters(shape, options)
    if guard.diverges:
        targets = math.ceil(options.micro_tokens * options.supervised_share)
        rows = min(_DIVERGENCE_CHUNKS * options.chunk_rows, targets)
        numbers += rows * shape.vocab_size * _DIVERGENCE_BUFFERS
    inputs = shape.lora_inputs(options.lora_targets, options.lora_layers) if guard.activations else 0
    return 4 * numbers + guard.activations * inputs * float_bytes(options.compute)
