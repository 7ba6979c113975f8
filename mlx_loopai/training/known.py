"""What the memory plan must know of a run's rows and of this machine."""

from __future__ import annotations

from collections.abc import Iterable

from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.memory.corrections import read_corrections
from mlx_loopai.memory.machine import Machine
from mlx_loopai.memory.picture_terms import PictureSizes
from mlx_loopai.memory.request import Known
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.models.vision.added import AddedSettings
from mlx_loopai.models.vision.settings import Seen, VisionSettings
from mlx_loopai.models.vision.sizes import encoder_numbers, picture_bytes, projector_numbers
from mlx_loopai.runs.context import RunContext
from mlx_loopai.training.general_rows import longest_prompt


def known_of(context: RunContext, machine: Machine) -> Known:
    """What the plan must know of an opened run; reads its rows. Raises: InputError when a data file cannot be read."""
    rows, preference = context.rows, context.config.preference
    longest_answered = rows.longest_asked + preference.answer_tokens if rows.longest_asked else 0
    return Known(
        longest_row=max(rows.longest, longest_answered),
        longest_asked=rows.longest_asked,
        longest_prompt=longest_prompt(context),
        corrections=read_corrections(context.base.shape, machine),
        pictures=picture_sizes(context.base.sees, context.rows.all, context.base.shape, machine),
    )


def picture_sizes(
    seen: Seen | None, rows: Iterable[TokenRow], shape: ModelShape, machine: Machine
) -> PictureSizes | None:
    """What the plan must know of the pictures of `rows`, for a text model of that shape; None where they have none."""
    if not isinstance(seen, VisionSettings | AddedSettings):
        return None
    counts = [int((row.ids == seen.image_token).sum()) for row in rows if row.pictures]
    if not counts:
        return None
    added = isinstance(seen, AddedSettings)
    width = seen.width if isinstance(seen, AddedSettings) else seen.tower.out
    return PictureSizes(
        row_features=max(counts),
        all_features=sum(counts),
        width=width,
        layers=0 if seen.tower is None else len(seen.tower.deepstack),
        projector=projector_numbers(width, shape.hidden_size) if added else 0,
        encoder=encoder_numbers(seen),
        # Of a row with several pictures the largest is not known: all of its features bound it.
        picture_bytes=picture_bytes(seen, max(counts), keeps_scores=machine.backend == "cpu"),
    )
