"""What the memory plan believes of the passes over a model is what they do."""

from __future__ import annotations

from inspect import signature

from mlx_lm.models.cache import KVCache

from mlx_loopai.config import load_config
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.generation.engine import generate_batch
from mlx_loopai.guards.measured import measuring_batches
from mlx_loopai.guards.terms import memory_terms
from mlx_loopai.memory.machine import named_machine
from mlx_loopai.memory.plan import plan
from mlx_loopai.memory.request import Known
from mlx_loopai.memory.sizes import VECTOR_BYTES
from mlx_loopai.models.pass_sizes import CACHE_STEP_TOKENS, SCORED_TOKENS
from mlx_loopai.training import parameter_vectors
from mlx_loopai.training.step import StepSettings
from tests.unit.conftest import row


def test_caches_grow_as_mlx_lm_lets_them() -> None:
    assert KVCache.step == CACHE_STEP_TOKENS


def test_where_there_is_room_a_run_does_what_its_passes_do_by_default(qwen25) -> None:
    config = load_config(None, ("replay.source=self", "replay.share=0.1", "penalty.kind=kronecker"))
    found = plan(
        qwen25("0.5B"),
        config,
        named_machine("m4-max-128gb"),
        memory_terms(config.penalty, config.replay),
        Known(longest_row=128),
    )
    assert found.rehearsal_rows == signature(generate_batch).parameters["batch_rows"].default
    assert found.chunk_rows == StepSettings(clip=1.0).chunk_rows == signature(nll).parameters["chunk_rows"].default
    (batch,) = measuring_batches([row(128, seed=index) for index in range(found.importance_tokens // 128)], 0)
    assert batch.ids.size == found.importance_tokens


def test_what_is_scored_and_updated_at_once_is_what_is_planned_for() -> None:
    assert signature(nll).parameters["micro_tokens"].default == SCORED_TOKENS
    assert VECTOR_BYTES == 4 * parameter_vectors.VECTOR_ENTRIES
