"""`mlx-loopai benchmark`: times this program against others, on the same weights and tokens."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.output import emit, json_option, progress, quiet_option
from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.benchmark.results import Result

_PROMPTS = (
    "오늘 날씨가 어때요?",
    "짧은 이야기를 하나 들려주세요.",
    "What is the capital of Korea?",
    "봄에 대해 시를 써 주세요.",
)

_shared: Sequence[Callable[[Any], Any]] = (
    click.option("--model", default="nano", show_default=True, help="nano, a folder or a hub id."),
    click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="How often each side runs."),
    click.option("--out", type=click.Path(path_type=Path), help="Write the result here, as JSON."),
    click.option("--plot", type=click.Path(path_type=Path), help="Draw the rates here, as SVG."),
    click.option("--costs", type=click.Path(path_type=Path), help="A table of machines and their dollars an hour."),
    json_option,
    quiet_option,
)


def _with_shared_options(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_shared):
        function = option(function)
    return function


@click.group("benchmark")
def command() -> None:
    """Time training or generation against other programs, or compare two results.

    All sides get the same float32 weights and tokens and take turns, each turn in a process of its own. Exit status 1
    when they do not compute the same.
    """


@command.command("train")
@_with_shared_options
@click.option(
    "--backends",
    help="Who takes part, the first compared with the others: mlx-loopai (as train runs here), mlx-loopai-compiled (on "
    "a CPU, with the step that a GPU runs), mlx-lm, torch-cpu, torch-mps. Default: mlx-lm and ours, on a CPU both.",
)
@click.option("--rows", type=click.Path(path_type=Path), help="Data file, or samples/NAME, with one answer a row.")
@click.option(
    "--row-count",
    default=0,
    type=click.IntRange(0),
    help="How many rows of --rows to use; 0: all that are not held out.",
)
@click.option(
    "--equal-length", default=128, show_default=True, type=int, help="Without --rows: random rows of this many tokens."
)
@click.option("--tokens", default=512, show_default=True, type=click.IntRange(8), help="Longest row of --rows.")
@click.option("--rows-per-step", default=4, show_default=True, type=click.IntRange(1))
@click.option("--steps", default=0, type=click.IntRange(0), help="Optimizer steps; 0: an epoch, or 12 of random rows.")
@click.option("--rank", default=8, show_default=True, type=click.IntRange(1), help="Rank of the adapters.")
@click.option(
    "--learning-rate", default=1e-5, show_default=True, type=float, help="Learning rate of Adam, on every side."
)
@click.option("--checkpointing", is_flag=True, help="Recompute blocks in the backward pass, on every side.")
@click.option(
    "--vocabulary",
    type=click.IntRange(8),
    help="Use a thin random model with this many tokens in its vocabulary instead of --model.",
)
@click.option("--seed", default=0, show_default=True, type=int)
def train_command(
    model: str,
    backends: str | None,
    rounds: int,
    out: Path | None,
    plot: Path | None,
    costs: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Time LoRA training: supervised tokens a second, and peak memory above the weights.

    First losses on the same rows, and held-out losses after, must agree between the sides.
    """
    from mlx_loopai.benchmark.protocol import run_in_process
    from mlx_loopai.benchmark.race import Setup, race_training

    names = (backends or _default_backends()).split(",")
    with tempfile.TemporaryDirectory(prefix="mlx-loopai-benchmark-") as scratch:
        case, rows = _train_case(Path(scratch), model, options)

        def race(peak: Any, on_turn: Any) -> Result:
            setup = Setup(names, rounds, run_in_process, peak)
            return race_training(case, rows, Path(scratch) / "case", setup, on_turn)

        result = _under_watch(race, rounds * len(names), quiet)
    _report(result, out, plot, costs, as_json)


@command.command("generate")
@_with_shared_options
@click.option(
    "--backends",
    default="mlx-loopai,mlx-lm",
    show_default=True,
    help="Who takes part, the first compared with the others: mlx-loopai, mlx-lm, torch-cpu, torch-mps.",
)
@click.option(
    "--prompts", type=click.Path(path_type=Path), help="Text file with one prompt a line. [default: four short prompts]"
)
@click.option("--max-tokens", default=64, show_default=True, type=click.IntRange(2), help="Longest answer, in tokens.")
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.IntRange(1),
    help="Prompts at a time; repeatable. [default: 1, 2, 4, 8]",
)
def generate_command(
    model: str,
    backends: str,
    rounds: int,
    out: Path | None,
    plot: Path | None,
    costs: Path | None,
    as_json: bool,
    quiet: bool,
    prompts: Path | None,
    max_tokens: int,
    batches: tuple[int, ...],
) -> None:
    """Time greedy generation: time to the first token, prompt and answer tokens a second, peak memory.

    All sides must give the same answers, token by token.
    """
    from mlx_loopai.benchmark.cases import GenerateCase
    from mlx_loopai.benchmark.protocol import run_in_process
    from mlx_loopai.benchmark.race import Setup, race_generation

    folder, encoded = _encoded_prompts(model, prompts)
    case = GenerateCase(str(folder), encoded, max_tokens, batches or (1, 2, 4, 8))
    names = backends.split(",")

    def race(peak: Any, on_turn: Any) -> Result:
        return race_generation(case, Setup(names, rounds, run_in_process, peak), on_turn)

    _report(_under_watch(race, rounds * len(names), quiet), out, plot, costs, as_json)


@command.command("compare")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@json_option
@quiet_option
def compare_command(before: Path, after: Path, as_json: bool, quiet: bool) -> None:
    """Compare two results of one race, BEFORE and AFTER, such as from two machines or two versions."""
    from mlx_loopai.benchmark.results import compare_results
    from mlx_loopai.benchmark.tables import comparison_table
    from mlx_loopai.runs.documents.race import read_race

    compared = compare_results(read_race(before), read_race(after))
    emit(compared, as_json, comparison_table(compared))
    if not compared["equal"]:
        raise LoopaiError(tr("the two are not of the same race: {differences}", differences=compared["differences"][0]))


def _default_backends() -> str:
    """mlx-lm and ours; on a CPU also our compiled step, which on a GPU is what `train` runs anyway."""
    from mlx_loopai.models.gradient import actual_path

    return "mlx-loopai,mlx-lm" if actual_path("auto") == "compiled" else "mlx-loopai,mlx-loopai-compiled,mlx-lm"


def _train_case(scratch: Path, model: str, options: dict[str, Any]) -> Any:
    """The case and its rows; a thin model is written to `scratch`."""
    from mlx_loopai.benchmark.cases import TrainCase, equal_rows, file_rows, write_thin_model
    from mlx_loopai.models.load import resolve_model
    from mlx_loopai.models.shape import ModelShape

    seed, steps = options["seed"], options["steps"]
    if options["vocabulary"]:
        folder = write_thin_model(scratch / f"thin-{options['vocabulary']}", options["vocabulary"], seed)
    else:
        folder = resolve_model(model)
    if options["rows"]:
        rows = file_rows(folder, options["rows"], options["row_count"], options["tokens"], seed)
    else:
        steps = steps or 12
        vocabulary = ModelShape.from_folder(folder).vocab_size
        rows = equal_rows(vocabulary, options["equal_length"], steps * options["rows_per_step"], seed)
    names = ("rows_per_step", "rank", "learning_rate", "checkpointing", "seed")
    return TrainCase(str(folder.resolve()), steps=steps, **{name: options[name] for name in names}), rows


def _encoded_prompts(model: str, file: Path | None) -> tuple[Path, tuple[tuple[int, ...], ...]]:
    from mlx_loopai.data.records import Message
    from mlx_loopai.data.tokens import ChatEncoder
    from mlx_loopai.models.load import load_tokenizer, resolve_model

    folder = resolve_model(model).resolve()
    lines = _PROMPTS if file is None else tuple(filter(None, file.read_text(encoding="utf-8").splitlines()))
    if not lines:
        raise InputError(tr("{file}: holds no prompt; write one on each line", file=file))
    encoder = ChatEncoder(load_tokenizer(folder))
    return folder, tuple(tuple(encoder.prompt_ids([Message("user", line)])) for line in lines)


def _under_watch(race: Callable[[Any, Any], Result], turns: int, quiet: bool) -> Result:
    """The race's result, with the machine and its state before and after."""
    from dataclasses import asdict, replace

    from mlx_loopai.benchmark.conditions import SystemReader, disturbances, read_machine, read_state
    from mlx_loopai.memory.speed import chip_peak

    reader = SystemReader()
    machine = read_machine(reader)
    before = read_state(reader)
    with progress(turns, "benchmark", quiet, "turns") as bar:
        result = race(chip_peak(machine.chip), bar.update)
        bar.update(turns)
    after = read_state(reader)
    return replace(
        result,
        command=shlex.join(["mlx-loopai", *sys.argv[1:]]),
        machine=machine,
        conditions={"before": asdict(before), "after": asdict(after)},
        disturbances=tuple(disturbances(before, after, machine.cores or 1)),
    )


def _report(result: Result, out: Path | None, plot: Path | None, costs: Path | None, as_json: bool) -> None:
    from mlx_loopai.benchmark.costs import TABLE, read_prices
    from mlx_loopai.benchmark.tables import conditions_text, cost_table, picture, result_table
    from mlx_loopai.files import write_whole

    prices = read_prices(costs or TABLE)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        result.write(out, indent=1)  # so that two results can be compared line by line
    if plot is not None:
        write_whole(plot, picture(result))
    tables = [result_table(result), conditions_text(result), cost_table(result, prices)]
    emit(result.to_json(), as_json, "\n\n".join(tables))
    if not result.equal:
        shown = "; ".join(result.differences[:3])
        raise LoopaiError(
            tr("the sides do not compute the same, so the rates cannot be compared: {shown}", shown=shown)
        )
