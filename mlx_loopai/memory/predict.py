"""How many bytes a training run needs, term by term, from sizes alone.

Pure: no mlx. `memory.sizes` counts what a step keeps; its few constants are fitted to steps measured on CPU
(docs/memory.md). For Metal, where none were measured, the prediction is at least what published runs needed
(`memory.published`), until a probe has measured steps there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cache

from mlx_loopai.errors import InputError
from mlx_loopai.language import later, tr
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
# Interpreter, mlx, mlx-lm and a tokenizer of 150,000 entries take 376 MiB before any data; the rest is for rows.
PYTHON_BYTES = 512 * MIB
# Freed buffers that are kept for reuse, since every batch width asks for the same sizes again.
_CACHE_SHARE = 0.25
CACHE_FLOOR_BYTES = 64 * MIB
# KL to the base is a lazy graph: how many chunks of scores are alive at once, and buffers in each.
_DIVERGENCE_CHUNKS, _DIVERGENCE_BUFFERS = 3, 6
# Numbers that mlx.optimizers keep per trained number. SGD's are there even without momentum, as zeros.
_MOMENTS = {"sgd": 1, "lion": 1, "muon": 1, "adam": 2, "adamw": 2}
# Bytes of one such number; with 8 bits, blocks of 256 share a float32 scale (training/eight_bit.py).
_MOMENT_BYTES = {"fp32": 4.0, "8-bit": 1 + 4 / 256}
# Float32 copies of a matrix that are alive while its update is computed in full fine-tuning.
_MATRIX_BUFFERS = {"fp32": 6, "8-bit": 20}
_TRANSIENT = ("activations", "attention", "loss")
# The terms that a probe measures together.
_MEASURED = (*_TRANSIENT, "runtime")


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes per term, which add up to the run's need; phases: what each phase of the run needs in all.

    The terms are those of a training step. The term `phases` is what the largest other phase needs beyond a step.
    `mx.get_peak_memory()` does not count the terms `cache` and `python`.
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
    """Ratio of measured to predicted bytes of a step, without what stays between steps. source: where it comes from."""

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

    A step's largest moment is the loss, the backward pass of a block, or the optimizer's update. So that the terms add
    up, each holds what is needed beyond the ones before it:
    - `loss`: what the loss needs;
    - `activations`, `attention`: what is kept, and what a block's backward pass needs beyond the loss;
    - `gradients`: the sum of earlier micro-batches, and what the present one's take beyond what is kept;
    - `optimizer`: the moments, and what the update needs beyond all that;
    - `runtime`: what MLX needs besides, as seen in runs on Macs.
    Without `phases` only a step counts.

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
    terms = step | {later("phases"): beyond, later("cache"): cache, later("python"): PYTHON_BYTES}
    return MemoryPrediction(terms, source, totals)


def _largest_step(shape: ModelShape, options: StepOptions, backend: Backend, constants: Constants) -> dict[str, int]:
    """Bytes of the micro-batch that needs most: of the run's own rows, or of rehearsal rows with their KL."""
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
    # A micro-batch's gradients are made while what was kept is freed, so the larger of the two counts.
    own = trained * (1 if options.whole else constants.gradients + constants.adapter_half * sizes.half)
    late = max(0.0, own - kept - kept_attention)
    beyond = max(0.0, work + work_attention + late - loss)
    late = min(late, beyond)
    share = work_attention / (work + work_attention)
    terms = {
        later("runtime"): int(published().process_bytes) if backend == "metal" else 0,
        later("weights"): weight_bytes(shape, options.base_precision),
        later("adapter"): adapter_bytes(shape, options),
        # The sum so far (of an adapter also the micro-batch before), and what this one's own need.
        later("gradients"): int((1 if options.whole else 2) * trained * options.accumulates + late),
        later("optimizer"): moment_bytes(shape, options),
        later("penalty"): guard_bytes(shape, options),
        later("activations"): int(kept + (beyond - late) * (1 - share)),
        later("attention"): int(kept_attention + (beyond - late) * share),
        later("loss"): int(loss),
        later("pictures"): picture_batch_bytes(shape, options),
    }
    update = _update_bytes(shape, options, constants) - sum(terms[name] for name in ("gradients", *_TRANSIENT))
    return terms | {"optimizer": terms["optimizer"] + max(0, update)}


def picture_batch_bytes(shape: ModelShape, options: StepOptions) -> int:
    """Bytes that pictures add to a micro-batch; 0 for a run without any."""
    if options.pictures is None:
        return 0
    rows = max(1, options.micro_tokens // options.width)
    return options.pictures.batch_bytes(rows, shape.hidden_size, options.micro_tokens)


def _update_bytes(shape: ModelShape, options: StepOptions, constants: Constants) -> int:
    """Bytes that the optimizer's update needs, gradients included: for all trained numbers together, or for one matrix
    after the other (training/update_in_turn.py)."""
    trained = 4 * trained_parameters(shape, options)
    if options.whole:
        vector = min(trained, max(VECTOR_BYTES, 4 * _largest_matrix(shape)))
        return trained + _MATRIX_BUFFERS[options.moments] * vector
    return int(constants.update * trained + constants.update_vector * min(trained, VECTOR_BYTES))


def _largest_matrix(shape: ModelShape) -> int:
    return max(linear.out * linear.into for block in shape.blocks for linear in block.linears.values())


def _seen_on_macs(shape: ModelShape, options: StepOptions, work: float, attention: float) -> tuple[float, float]:
    """`work` and `attention` of a block's backward pass, raised to what published runs on Macs needed.

    On Macs attention's scores and the rest of such a pass are not alive at the same moment.
    """
    found = published()
    if options.checkpointing:
        block = found.block * block_bytes(shape, options.micro_tokens * float_bytes(options.compute))
        work = max(work, block - attention)
    if options.quadratic_attention:
        rows = max(1, options.micro_tokens // options.width)
        attention = max(attention, scores_bytes(shape, rows, options.width, found) - work)
    return work, attention


# Cached, like the functions below: a fit asks thousands of times for the same sizes.
@cache
def resting_bytes(shape: ModelShape, options: StepOptions) -> int:
    """Bytes that stay between steps, without a penalty: weights, adapter and the optimizer's moments."""
    return weight_bytes(shape, options.base_precision) + adapter_bytes(shape, options) + moment_bytes(shape, options)


@cache
def trained_parameters(shape: ModelShape, options: StepOptions) -> int:
    """Trained numbers: the factors, DoRA's magnitudes (one per output) and a projector's; or whole matrices."""
    if options.whole:
        return shape.lora_matrices(options.lora_targets, options.lora_layers)
    factors = shape.lora_parameters(options.lora_rank, options.lora_targets, options.lora_layers)
    factors += options.pictures.projector if options.pictures else 0
    return factors + (_outputs(shape, options) if options.dora else 0)


@cache
def adapter_bytes(shape: ModelShape, options: StepOptions) -> int:
    """Bytes of all trained numbers, and of the squared row norms that DoRA keeps besides its magnitudes."""
    return 4 * (trained_parameters(shape, options) + (_outputs(shape, options) if options.dora else 0))


@cache
def moment_bytes(shape: ModelShape, options: StepOptions) -> int:
    """Bytes that the optimizer keeps. Raises: InputError for an unknown optimizer.

    Adafactor keeps sums over the rows and over the columns of a matrix, and one number per entry of a vector.
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
        raise InputError(
            tr("optimizer {optimizer!r} is unknown; known: {known}", optimizer=options.optimizer, known=known)
        )
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
    """Bytes that the guards need, from the factors that they hand in. Counted, not fitted.

    KL to the base keeps the scores of base and adapted model, for some chunks ahead.
    """
    guard = options.guard
    numbers = guard.weights * shape.lora_matrices(options.lora_targets, options.lora_layers)
    numbers += guard.largest_layers * _largest_matrix(shape)
    numbers += guard.vectors * shape.lora_parameters(1, options.lora_targets, options.lora_layers)
    numbers += shape.lora_directions(guard.directions, options.lora_targets, options.lora_layers)
    numbers += guard.adapters * trained_parameters(shape, options)
    if guard.diverges:
        targets = math.ceil(options.micro_tokens * options.supervised_share)
        rows = min(_DIVERGENCE_CHUNKS * options.chunk_rows, targets)
        numbers += rows * shape.vocab_size * _DIVERGENCE_BUFFERS
    inputs = shape.lora_inputs(options.lora_targets, options.lora_layers) if guard.activations else 0
    return 4 * numbers + guard.activations * inputs * float_bytes(options.compute)
