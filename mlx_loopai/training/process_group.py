"""The processes that train one run together, started by `mlx.launch`; a process started alone is a group of one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_loopai.models.micro_batch import MicroBatch

# What mlx.launch (ring, jaccl, nccl) and mpirun set for the processes they start.
_LAUNCHED = ("MLX_RANK", "OMPI_COMM_WORLD_RANK")


@dataclass(frozen=True)
class ProcessGroup:
    """`rank` of `size` processes; rank 0 writes and prints."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def join() -> ProcessGroup:
        """The group this process was launched into."""
        if not any(name in os.environ for name in _LAUNCHED):
            return ProcessGroup()
        group = mx.distributed.init(strict=True)
        return ProcessGroup(group.rank(), group.size())

    def share(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """This process's rows of a step's batches: every row is exactly one process's."""
        if self.size == 1:
            return list(batches)
        start, found = 0, []
        for batch in batches:
            first = (self.rank - start) % self.size
            start += len(batch.ids)
            if first < len(batch.ids):
                parts = {name: _every(values, first, self.size) for name, values in vars(batch).items()}
                found.append(MicroBatch(**parts))
        return found

    def sum(self, tree: Any) -> Any:
        """The arrays of `tree` summed over all processes, sent as one array."""
        if self.size == 1:
            return tree
        names, arrays = zip(*tree_flatten(tree), strict=True)
        flat = mx.distributed.all_sum(mx.concatenate([array.reshape(-1).astype(mx.float32) for array in arrays]))
        edges = np.cumsum([array.size for array in arrays])[:-1].tolist()
        parts = [part.reshape(array.shape) for part, array in zip(mx.split(flat, edges), arrays, strict=True)]
        return tree_unflatten(list(zip(names, parts, strict=True)))

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process; they all get the same answer, at the same step."""
        return flag if self.size == 1 else bool(mx.distributed.all_max(mx.array(int(flag))).item())

    def barrier(self) -> None:
        """Return once every process of the group has called this."""
        self.any(False)

    @contextmanager
    def first_process_first(self) -> Iterator[None]:
        """Inside, rank 0 goes first; the others wait until it is done and find the files that it wrote."""
        if self.rank:
            self.barrier()
        yield
        if not self.rank:
            self.barrier()


ALONE = ProcessGroup()


def _every(values: Any, first: int, size: int) -> Any:
    return None if values is None else np.ascontiguousarray(values[first::size])
