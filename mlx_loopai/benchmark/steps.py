"""The optimizer steps of a race as this project plans them; a side without a planner of its own runs the same steps."""

from __future__ import annotations

from mlx_loopai.benchmark.cases import CaseRows, TrainCase
from mlx_loopai.benchmark.race_results import StepTokens
from mlx_loopai.data.batches import batch_of, choose_widths, plan_steps
from mlx_loopai.models.micro_batch import MicroBatch


class PlannedSteps:
    """`rows_per_step` rows a step, grouped by length; the rows of one width run together."""

    def __init__(self, case: TrainCase, rows: CaseRows) -> None:
        lengths = [len(row.ids) for row in rows.train]
        self._rows = rows.train
        self._widths = choose_widths(lengths)
        room = case.rows_per_step * max(self._widths)
        self._steps = plan_steps(lengths, case.rows_per_step, room, case.seed, widths=self._widths)
        self.count = case.steps or len(self._steps)

    def batches(self, number: int) -> tuple[list[MicroBatch], StepTokens]:
        """The micro-batches of step `number`, and their tokens; after the last step the first comes again."""
        step = [[self._rows[index] for index in micro] for micro in self._steps[number % len(self._steps)]]
        batches = [batch_of(rows, self._widths) for rows in step]
        rows = [row for micro in step for row in micro]
        held = StepTokens(
            real=sum(len(row.ids) for row in rows),
            supervised=sum(int(row.supervised.sum()) for row in rows),
            computed=sum(batch.ids.size for batch in batches),
        )
        return batches, held
