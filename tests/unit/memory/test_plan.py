from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_loopai.config import validate_config
from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.guards.terms import memory_terms
from mlx_loopai.memory import plan as planning
from mlx_loopai.memory import request as asking
from mlx_loopai.memory.machine import machine_names, named_machine
from mlx_loopai.memory.plan import MemoryPlan, budget_of
from mlx_loopai.memory.predict import Correction
from mlx_loopai.memory.request import Known
from mlx_loopai.models.known_shapes import known_config
from mlx_loopai.models.shape import ModelShape, Quantization
from mlx_loopai.units import GIB, MIB

from .conftest import QWEN25, qwen25_config


def plan(shape, config, machine, **more) -> MemoryPlan:
    """The plan of a run with the guards that `config` names."""
    return planning.plan(shape, config, machine, memory_terms(config.penalty, config.replay), Known(**more))


def config(**values):
    return validate_config(values, "test")


def reasons(found) -> dict[str, str]:
    return {choice.name: choice.reason for choice in found.choices}


def test_3b_fits_a_16_gib_m4_and_says_how(qwen25) -> None:
    found = plan(qwen25("3B"), config(), named_machine("m4-16gb", 15))
    assert found.fits
    assert found.budget_bytes == int(0.85 * named_machine("m4-16gb", 15).working_set_bytes)
    assert found.total_bytes <= 0.85 * 10.67 * GIB
    assert found.checkpointing
    assert found.base_precision == "bf16"
    assert found.micro_tokens == 2048
    said = reasons(found)
    assert "85% of the working set of 10.7 GiB" in said["budget"]
    assert "would need" in said["checkpointing"]
    assert "8192 would need" in said["micro_tokens"]
    assert re.fullmatch(r"Metal, from \d+ published runs of mlx-lm: median error \d+\.\d%", found.calibrated_on)


def test_qwen35_2b_fits_a_16_gib_m4_with_rows_of_2048_tokens() -> None:
    sizes = known_config("Qwen3.5-2B-shape")
    assert sizes is not None
    found = plan(ModelShape.from_config(sizes), config(memory={"micro_tokens": 2048}), named_machine("m4-16gb", 15))
    assert found.fits
    assert found.micro_tokens == 2048
    assert found.base_precision == "bf16"
    assert found.terms["weights"] == pytest.approx(2 * 1.88e9, rel=0.01)
    assert sum(found.terms.values()) == found.total_bytes <= found.budget_bytes


def test_a_whole_small_model_fits_16_gib_with_8_bit_moments(qwen25, monkeypatch: pytest.MonkeyPatch) -> None:
    """Per weight of the blocks: 2 bytes of base, 4 of update, 4 of gradient, and 8 or 2 of moments."""
    # With the lowest MLX that is allowed, attention keeps scores, and there is no room for them.
    monkeypatch.setattr(asking, "attention_of", lambda _: "linear")
    machine = named_machine("m4-16gb", 15)
    whole, small = (
        plan(qwen25("0.5B"), config(train={"method": "full", "moments": moments}), machine)
        for moments in ("fp32", "8-bit")
    )
    assert small.fits
    assert small.base_precision == "bf16"
    learns = qwen25("0.5B").lora_matrices()
    assert whole.terms["adapter"] == small.terms["adapter"] == 4 * learns
    assert whole.terms["optimizer"] >= 8 * learns
    assert small.total_bytes < whole.total_bytes
    larger = plan(qwen25("3B"), config(train={"method": "full"}, lora={"layers": 36}), machine)
    assert not larger.fits
    assert larger.base_precision == "bf16"  # a base that learns is never quantised
    with pytest.raises(LoopaiError, match=r"optimizer .*set train\.moments to 8-bit, or train\.method to lora"):
        larger.require_fit()
    with pytest.raises(InputError, match="this base have 4 bits"):
        quantised = replace(qwen25("0.5B"), quantization=Quantization(4, 64))
        plan(quantised, config(train={"method": "full"}), machine)


def test_concessions_come_in_order(qwen25) -> None:
    shape = qwen25("3B")
    names = ("m4-max-128gb", "m4-16gb", "m1-8gb")
    roomy, tight, small = (plan(shape, config(), named_machine(name)) for name in names)
    assert (roomy.checkpointing, tight.checkpointing) == (False, True)
    assert roomy.micro_tokens > tight.micro_tokens
    assert (roomy.base_precision, tight.base_precision, small.base_precision) == ("bf16", "bf16", "4-bit")
    assert "quantised while it is read" in reasons(small)["base_precision"]
    assert small.fits


def test_7b_in_bf16_never_fits_16_gib(qwen25) -> None:
    found = plan(qwen25("7B"), config(dtype="bf16"), named_machine("m4-16gb"))
    assert not found.fits
    with pytest.raises(LoopaiError, match=r"weights 14.2 GiB, .*4-bit base or a smaller model"):
        found.require_fit()
    assert plan(qwen25("7B"), config(), named_machine("m4-16gb")).base_precision == "4-bit"


def test_a_cpu_is_not_given_a_quantised_base(qwen25) -> None:
    machine = replace(named_machine("m4-16gb"), backend="cpu")
    found = plan(qwen25("7B"), config(), machine)
    assert (found.fits, found.base_precision) == (False, "fp32")


def test_what_the_user_set_stays(qwen25) -> None:
    memory = {"checkpointing": False, "chunk_rows": 100, "micro_tokens": 3000}
    found = plan(qwen25("0.5B"), config(memory=memory, dtype="fp16"), named_machine("m4-max-64gb"))
    assert (found.checkpointing, found.chunk_rows, found.micro_tokens) == (False, 100, 3000)
    assert found.base_precision == "fp16"
    assert {
        said for name, said in reasons(found).items() if name in ("checkpointing", "chunk_rows", "micro_tokens")
    } == {"set by you"}


def test_a_quantised_checkpoint_stays_as_it_is(qwen25) -> None:
    found = plan(replace(qwen25("7B"), quantization=Quantization(8, 64)), config(), named_machine("m4-max-64gb"))
    assert found.base_precision == "8-bit"
    assert reasons(found)["base_precision"] == "the checkpoint's own"


def test_a_micro_batch_holds_the_longest_row(qwen25) -> None:
    options = config(memory={"micro_tokens": 256}, train={"max_tokens": 2048})
    machine = named_machine("m4-max-64gb")
    assert plan(qwen25("0.5B"), options, machine).micro_tokens == 2048
    assert plan(qwen25("0.5B"), options, machine, longest_row=200).micro_tokens == 256


def test_shorter_rows_need_less(qwen25) -> None:
    machine = named_machine("m4-max-128gb")
    long, short = (plan(qwen25("0.5B"), config(), machine, longest_row=n) for n in (2048, 128))
    assert short.micro_tokens == 8 * 128
    assert short.total_bytes < long.total_bytes


def test_budget(qwen25) -> None:
    machine = named_machine("m4-16gb")
    assert budget_of(machine, "4GiB") == 4 * GIB
    assert budget_of(machine, "4GB") == 4 * 10**9
    assert budget_of(named_machine("m1-8gb")) <= 8 * GIB - named_machine("m1-8gb").reserve_bytes
    with pytest.raises(InputError, match=r"memory\.budget.*'lots'"):
        budget_of(machine, "lots")
    above = plan(qwen25("0.5B"), config(memory={"budget": "15GiB"}), machine)
    assert "more than is safe here" in reasons(above)["budget"]


def test_one_array_stays_below_the_largest_buffer(qwen25) -> None:
    machine = replace(named_machine("m4-max-128gb"), max_buffer_bytes=100 * MIB)
    found = plan(qwen25("0.5B"), config(dtype="fp32"), machine)
    assert not found.fits  # the embedding alone is 519 MiB


@settings(max_examples=30, deadline=None)
@given(
    size=st.sampled_from(sorted(QWEN25)),
    name=st.sampled_from(machine_names()),
    macos=st.sampled_from([15, 26]),
    width=st.integers(8, 4096),
    rows=st.integers(1, 64),
    rank=st.integers(1, 64),
)
def test_every_plan_keeps_its_word(size: str, name: str, macos: int, width: int, rows: int, rank: int) -> None:
    options = config(train={"max_tokens": width, "rows_per_step": rows}, lora={"rank": rank})
    found = plan(ModelShape.from_config(qwen25_config(size)), options, named_machine(name, macos))
    assert found.total_bytes == sum(found.terms.values())
    assert found.fits == (found.total_bytes <= found.budget_bytes)
    assert width <= found.micro_tokens <= max(rows * width, width)
    assert all(choice.reason for choice in found.choices)


@settings(max_examples=30, deadline=None)
@given(
    size=st.sampled_from(sorted(QWEN25)),
    gib=st.floats(3, 90),
    more=st.floats(0, 30),
    width=st.integers(8, 2048),
    rows=st.integers(1, 32),
    checkpointing=st.booleans(),
)
def test_more_memory_never_gives_a_smaller_micro_batch(
    size: str, gib: float, more: float, width: int, rows: int, checkpointing: bool
) -> None:
    """With everything else held; otherwise more memory also buys what is wanted more than a large micro-batch."""
    shape, machine = ModelShape.from_config(qwen25_config(size)), named_machine("m4-max-128gb")
    plans = [
        plan(
            shape,
            config(
                dtype="bf16",
                train={"max_tokens": width, "rows_per_step": rows},
                lora={"layers": shape.n_layers},
                memory={"budget": f"{budget}GiB", "checkpointing": checkpointing, "chunk_rows": 64},
            ),
            machine,
        )
        for budget in (gib, gib + more)
    ]
    if plans[0].fits:
        assert plans[1].fits
        assert plans[1].micro_tokens >= plans[0].micro_tokens


def test_phases_before_the_training_are_made_to_fit(qwen25) -> None:
    guarded = {"penalty": {"kind": "kronecker"}, "replay": {"share": 0.1, "source": "self"}}
    tight, roomy = (plan(qwen25("3B"), config(**guarded), named_machine(n)) for n in ("m4-16gb", "m4-max-128gb"))
    assert tight.fits
    assert tight.base_precision == "bf16"
    assert 0 < tight.importance_tokens < roomy.importance_tokens
    assert 0 < tight.rehearsal_rows <= roomy.rehearsal_rows == 32
    assert all(need <= tight.budget_bytes for need in tight.phases.values())
    assert {"importance_tokens", "rehearsal_rows"} <= set(reasons(tight))
    plain = plan(qwen25("3B"), config(), named_machine("m4-16gb"))
    assert (plain.importance_tokens, plain.rehearsal_rows) == (0, 0)


def test_what_a_probe_measured_decides(qwen25) -> None:
    shape, machine = qwen25("3B"), named_machine("m4-16gb")
    first = plan(shape, config(), machine)
    corrected = plan(shape, config(), machine, corrections={first.checkpointing: Correction(0.5, "two steps here")})
    assert corrected.calibrated_on == "two steps here"
    assert corrected.micro_tokens > first.micro_tokens


def test_answers_that_a_run_draws_are_a_phase_of_its_own(qwen25) -> None:
    """Caches of prompts and answers beside all that rests between steps; fewer at once where memory is short."""
    shape, machine = qwen25("0.5B"), named_machine("m4-16gb", 15)
    values = {"preference": {"objective": "grpo", "group": 4, "answer_tokens": 200}, "train": {"rows_per_step": 6}}
    found = plan(shape, config(**values), machine, longest_row=300, longest_asked=100)
    assert found.sampling_rows == 24
    assert "each of at most 200 tokens" in reasons(found)["sampling_rows"]
    resting = sum(found.terms[name] for name in ("weights", "adapter", "runtime", "penalty"))
    caches = 2 * 24 * 512 * 2 * shape.attending_blocks * shape.kv_size * 2
    assert found.phases["sampling"] > resting + caches
    longer = {"preference": values["preference"] | {"answer_tokens": 900}, "train": {"rows_per_step": 6}}
    assert (
        plan(shape, config(**longer), machine, longest_row=1000, longest_asked=100).phases["sampling"]
        > (found.phases["sampling"])
    )
    tight = config(**longer, memory={"budget": "2.6GiB"})
    few = plan(shape, tight, machine, longest_row=1000, longest_asked=1500)
    assert few.fits
    assert 0 < few.sampling_rows < 24
    without = plan(shape, config(), machine, longest_row=300)
    assert ("sampling" in without.phases, without.sampling_rows) == (False, 0)


def test_unknown_prompts_are_assumed_to_be_as_long_as_usual(qwen25) -> None:
    values = {"preference": {"objective": "grpo"}, "train": {"rows_per_step": 2}}
    found, short = (
        plan(qwen25("0.5B"), config(**values), named_machine("m4-16gb", 15), longest_asked=asked) for asked in (0, 20)
    )
    assert found.sampling_rows == short.sampling_rows == 8
    assert found.phases["sampling"] > short.phases["sampling"]
