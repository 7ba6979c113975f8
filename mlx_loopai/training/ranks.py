"""`lora.ranks: importance`: layers whose gradient has more large directions get a higher rank, others a lower one.

The gradient of the training rows at the base says what a layer would learn first. Its singular value number r + 1 is,
to first order, what one more rank there would add. That rank costs D_in + D_out parameters. So ranks go to the largest
squared singular values per parameter, until as many parameters are spent as the configured rank would have everywhere.

Source: ranks by gradient as in GoRA (arXiv 2502.12171), and by spectrum as in EVA (arXiv 2410.07170, there the inputs'
spectrum). Ours: the choice per parameter, and the singular values of a sketch of the gradient instead of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_loopai.config import LoraOptions
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.files import require_seal, seal, write_whole
from mlx_loopai.guards.measured import measuring_batches
from mlx_loopai.guards.observation import observe
from mlx_loopai.language import tr
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.updated_linear import remove_updates, updated_modules
from mlx_loopai.progress import Advance, ignore
from mlx_loopai.runs.context import RunContext

# Training rows whose gradient is looked at.
ROWS = 64
# A layer keeps this share of the configured rank, and gets at most this many times as much.
LEAST_SHARE, MOST_TIMES = 0.25, 4
# Columns of a sketch beyond the ranks that are read off it.
SPARE = 8


def ranks_of(context: RunContext, form: LoraOptions, batch_tokens: int = 0) -> dict[str, int]:
    """Rank by module for the run's adapter; empty where all have `form.rank`. Measured once a run.

    batch_tokens: most padded tokens of a batch of several rows; 0: no limit.
    """
    if form.ranks == "same":
        return {}
    kept = context.directory.ranks
    if kept.exists():
        require_seal(kept)
        return {str(name): int(rank) for name, rank in json.loads(kept.read_text(encoding="utf-8")).items()}
    batches = measuring_batches(_some(list(context.rows.sources.values())), batch_tokens)
    context.listener.stage(tr("ranks"), len(batches))
    apply_lora(context.loaded.model, form.model_copy(update={"rank": 1, "dora": False, "dropout": 0.0}), 0)
    sizes = {name: layer.sizes for name, layer in updated_modules(context.loaded.model).items()}
    most = MOST_TIMES * form.rank
    values = singular_values(context.loaded.model, batches, most, context.listener.advance)
    remove_updates(context.loaded.model)
    found = shared_out(values, sizes, form.rank)
    if context.directory.writes:
        write_whole(kept, json.dumps(found, indent=2) + "\n")
        seal(kept)
    return found


def singular_values(
    model: nn.Module, batches: Sequence[MicroBatch], most: int, on_progress: Advance = ignore
) -> dict[str, np.ndarray]:
    """Estimates of the `most` largest singular values of dL/dW, largest first, by layer of `model` that has an update.

    They are those of G Omega / sqrt(k) for the gradient G (D_out, D_in) and a Gaussian Omega (D_in, k). G itself is
    never built: over all layers it is as large as the model.

    Source: randomised range finding, arXiv 0909.4061, of which this is the first half.
    """
    layers = updated_modules(model)
    columns = most + SPARE
    random = {
        size: mx.random.normal((size, columns), key=mx.random.key(size))
        for size in {layer.sizes[1] for layer in layers.values()}
    }
    sketches = {name: mx.zeros((layer.sizes[0], columns)) for name, layer in layers.items()}
    for done, batch in enumerate(batches):
        inputs, gradients, _ = observe(model, layers, batch)
        for name, layer in layers.items():
            x, pull = (each.reshape(-1, each.shape[-1]).astype(mx.float32) for each in (inputs[name], gradients[name]))
            sketches[name] = sketches[name] + pull.T @ (x @ random[layer.sizes[1]])
            mx.eval(sketches[name])
        on_progress(done + 1)
    found = {}
    for name, layer in layers.items():
        sketch = np.array(sketches[name], dtype=np.float64)
        squares = np.linalg.eigvalsh(sketch.T @ sketch)[::-1][: min(most, *layer.sizes)]
        found[name] = np.sqrt(np.maximum(squares, 0.0) / columns)
    return found


def shared_out(values: Mapping[str, np.ndarray], sizes: Mapping[str, tuple[int, int]], rank: int) -> dict[str, int]:
    """The rank of every layer: the layers with the largest `values` get the most.

    Together they have at most as many parameters as `rank` in every layer. values: singular values by layer, largest
    first; sizes: (D_out, D_in).
    """
    least = max(1, int(LEAST_SHARE * rank))
    ranks = {name: min(least, len(values[name])) for name in values}
    left = sum(sum(sizes[name]) * (rank - ranks[name]) for name in values)
    wanted = [(float(value) ** 2 / sum(sizes[name]), name) for name in values for value in values[name][ranks[name] :]]
    # The sort is stable and a layer's values fall, so that a layer's ranks are given in their order.
    for _, name in sorted(wanted, key=lambda entry: -entry[0]):
        if sum(sizes[name]) <= left:
            ranks[name] += 1
            left -= sum(sizes[name])
    return ranks


def _some(files: Sequence[Sequence[TokenRow]]) -> list[TokenRow]:
    """At most `ROWS` rows of `files`, evenly spaced over all of them; no other row is read."""
    total, found = sum(map(len, files)), []
    for place in np.linspace(0, total - 1, min(ROWS, total)).astype(int):
        for file in files:
            if place < len(file):
                found.append(file[int(place)])
                break
            place -= len(file)
    return found
