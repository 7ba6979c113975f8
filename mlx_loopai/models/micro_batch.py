"""A micro-batch: some rows, padded to one width, with the weights and marks that their loss needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlx_loopai.models.pass_sizes import LEAST_SHARED, OPENING_STEP

# How a row was judged. pair: the same number for the two answers of a pair, -1 for a row that was not judged; good:
# whether it is the better one, or has a good label; reference: the base's log-probability of its targets, nats.
JUDGED = np.dtype([("pair", np.int32), ("good", np.bool_), ("reference", np.float64)])
# A token that might follow at a position. token: its id, -1 where a row has fewer than others; score: higher is better;
# reference: its log-probability before the run's first step, nats; weight: that of its loss, in place of the target's.
CANDIDATES = np.dtype([("token", np.int32), ("score", np.float64), ("reference", np.float64), ("weight", np.float32)])


@dataclass(frozen=True, eq=False)
class PictureRows:
    """The features of the pictures in B rows of T tokens; the arrays are memory-mapped files.

    which: for each token 1 + the index of the feature that takes its place, 0 for text. positions, deepstack: as in
    `models.vision.pictures.Pictures`.
    """

    which: npt.NDArray[np.int64]  # [B, T]
    features: npt.NDArray[np.float32]  # [M, D]
    positions: npt.NDArray[np.int32] | None = None  # [B, 3, T]
    deepstack: npt.NDArray[np.float32] | None = None  # [M, L, D]

    def __getitem__(self, rows: slice) -> PictureRows:
        positions = None if self.positions is None else self.positions[rows]
        return replace(self, which=self.which[rows], positions=positions)


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """B rows padded on the right to T tokens. Padding is never supervised.

    weights: weight of a token's loss; None: 1 for every supervised token. divergence: weight of its KL to the base;
    None: 0. rehearsal: which rows rehearse; on the others the KL leaves the target out. base_states: the base's final
    states at each row's targets, in order; None where they are not known. judged: of type JUDGED; None where no row was
    judged. candidates: of type CANDIDATES; they take the place of a row's only target; None where no row has any.
    advantages: how much better than others each row is that the model wrote itself; None for other rows. drawn: the
    log-probability of its tokens when they were written, nats; None where the model is still the same. pictures: None
    where no row has any.
    """

    ids: npt.NDArray[np.int32]  # [B, T]
    supervised: npt.NDArray[np.bool_]  # [B, T]
    weights: npt.NDArray[np.float32] | None = None  # [B, T]
    divergence: npt.NDArray[np.float32] | None = None  # [B, T]
    rehearsal: npt.NDArray[np.bool_] | None = None  # [B]
    base_states: npt.NDArray[np.float32] | None = None  # [B, most targets of a row, D]
    judged: npt.NDArray[np.void] | None = None  # [B]
    candidates: npt.NDArray[np.void] | None = None  # [B, K]
    advantages: npt.NDArray[np.float32] | None = None  # [B]
    drawn: npt.NDArray[np.float64] | None = None  # [B, T]
    pictures: PictureRows | None = None

    @property
    def opening(self) -> int:
        """How many first tokens of `ids[:, :-1]` are worth computing once (`opening_of`)."""
        return opening_of(self.ids[:, :-1]) if self.pictures is None else 0


def opening_of(ids: npt.NDArray[np.int32]) -> int:
    """How many first tokens of the rows `ids` (B, T) are worth computing once; 0: none.

    A multiple of `OPENING_STEP`, since a compiled step is traced for every other number. One token of each row at least
    is left.
    """
    rows, tokens = ids.shape
    differs = np.flatnonzero((ids != ids[:1]).any(axis=0))
    equal = int(differs[0]) if len(differs) else tokens
    found = min(equal, tokens - 1) // OPENING_STEP * OPENING_STEP
    return found if (rows - 1) * found >= LEAST_SHARED * rows * tokens else 0
