from __future__ import annotations

import numpy as np
import pytest

from mlx_loopai.data.batches import divided
from mlx_loopai.models.micro_batch import MicroBatch


@pytest.mark.parametrize(("rows", "divisor", "heights"), [(8, 1, [8]), (8, 2, [4, 4]), (5, 2, [3, 2]), (2, 64, [1, 1])])
def test_rows_are_kept_in_order(rows: int, divisor: int, heights: list[int]) -> None:
    ids = np.arange(rows * 3, dtype=np.int32).reshape(rows, 3)
    batch = MicroBatch(ids, ids % 2 == 0)
    found = divided([batch, batch], divisor)
    assert [len(part.ids) for part in found] == heights * 2
    assert np.array_equal(np.concatenate([part.ids for part in found]), np.concatenate([ids, ids]))
    assert np.array_equal(np.concatenate([part.supervised for part in found[: len(heights)]]), batch.supervised)
