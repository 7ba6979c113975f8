"""What `generate` does with its prompts: one shown as it is written, or a file of them answered together."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.output import emit, progress
from mlx_loopai.errors import Interrupted, LoopaiError

if TYPE_CHECKING:
    from mlx_loopai.generation.answers import Answer, Standard
    from mlx_loopai.generation.constraint import Constraint, Tally
    from mlx_loopai.generation.engine import SamplingOptions
    from mlx_loopai.generation.grammar import Grammar
    from mlx_loopai.generation.prompts import Prompt
    from mlx_loopai.generation.request import Request
    from mlx_loopai.generation.session import Session
    from mlx_loopai.models.load import LoadedModel
    from mlx_loopai.models.prompt_cache import Prefix

_ADVICE = "ask in other words, or raise --retries, --temperature or --max-removed"


@dataclass(frozen=True)
class Output:
    """Where the answers go."""

    out: Path | None
    as_json: bool
    quiet: bool


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that is the same for all prompts of a call."""

    session: Session
    options: SamplingOptions
    best_of: int
    constraint: Constraint | None
    tally: Tally
    grammar: Grammar | None = None
    standard: Standard | None = None
    draft: LoadedModel | None = None
    prefix: Prefix | None = None

    @property
    def scripts(self) -> str:
        return str(self.constraint.scripts) if self.constraint else "off"

    def request(self, ids: Sequence[int], row: int) -> Request:
        from mlx_loopai.generation.request import Request

        prefix = self.prefix if self.prefix is not None and self.prefix.fits(ids) else None
        return Request(ids, self.options, self.constraint, self.tally, row, self.grammar, prefix)

    def keys(self, all_ids: Sequence[Sequence[int]]) -> list[str]:
        """For each prompt a hash of everything that decides its answer."""
        from mlx_loopai.models.prompt_cache import cache_identity

        session = self.session
        settings = {
            **cache_identity(session.loaded.model, session.loaded.base_hash, session.adapter),
            **dataclasses.asdict(self.options),
            "best_of": self.best_of,
            "scripts": self.scripts,
            "code_fences": self.constraint is not None and self.constraint.fences is not None,
            "grammar": self.grammar.source if self.grammar else "",
            "standard": repr(self.standard),
        }
        common = json.dumps(settings, sort_keys=True)
        return [hashlib.sha256(f"{common} {list(ids)}".encode()).hexdigest()[:16] for ids in all_ids]


def answer_one(job: Job, prompt: Prompt, ids: list[int], output: Output) -> None:
    """Answer one prompt and show it. Raises: LoopaiError when no attempt met the standard."""
    started = time.perf_counter()
    together = job.best_of > 1 or job.standard is not None
    answer = _chosen(job, ids, output) if together else _streamed(job, ids, output)
    seconds = time.perf_counter() - started
    if answer.problem:
        raise LoopaiError(f"no answer was accepted in {_attempts(answer)}: {answer.problem}; {_ADVICE}")
    written = answer.generation
    if together and not output.as_json:
        click.echo(written.text)
    document = {
        "text": written.text,
        "prompt_tokens": len(ids),
        "generated_tokens": len(written.tokens),
        "tokens_per_s": len(written.tokens) / seconds,
        "seed": answer.seed,
        "attempts": answer.attempts,
        "scripts": job.scripts,
        "masked_mass": job.tally.masked_mass,
        "argmax_masked": job.tally.argmax_masked,
        "finished": written.finished,
        "sources": prompt.sources,
    }
    emit(document, output.as_json, "")


def answer_all(job: Job, prompts: list[Prompt], all_ids: list[list[int]], output: Output) -> None:
    """Answer the prompts of a file together. Raises: LoopaiError when some answers met no standard, after all are
    written; Interrupted after Ctrl-C when the rows that ended are kept in a file.
    """
    started = time.perf_counter()
    rows = _into_file(job, prompts, all_ids, output) if output.out else _in_memory(job, prompts, all_ids, output)
    seconds = time.perf_counter() - started
    n_tokens = sum(row["generated_tokens"] for row in rows)
    document = {
        "results": rows,
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows),
        "generated_tokens": n_tokens,
        "tokens_per_s": n_tokens / seconds,
        "seed": job.options.seed,
        "scripts": job.scripts,
        "masked_mass": job.tally.masked_mass,
        "argmax_masked": job.tally.argmax_masked,
        "out": output.out,
    }
    if output.out is not None:
        emit(document, output.as_json, f"{output.out}: {len(rows)} answers, {n_tokens} tokens")
    else:
        emit(document, output.as_json, "\n\n".join(f"> {row['prompt']}\n{row['text']}" for row in rows))
    failed = [row for row in rows if row["problem"]]
    if failed:
        first = failed[0]
        raise LoopaiError(
            f"{len(failed)} of {len(rows)} answers were not accepted and are left empty; the first, {first['id']}: "
            f"{first['problem']}; {_ADVICE}"
        )


def _streamed(job: Job, ids: list[int], output: Output) -> Answer:
    """The answer, shown as it is written."""
    from mlx_loopai.generation.answers import Answer, unfinished_form
    from mlx_loopai.generation.engine import Generation, stream

    request = job.request(ids, 0)
    texts: list[str] = []
    tokens: list[int] = []
    finished = False
    for piece in stream(job.session.loaded, request, job.draft):
        texts.append(piece.text)
        tokens += [] if piece.token is None else [piece.token]
        finished = piece.finished
        if not output.as_json and piece.text:
            click.echo(piece.text, nl=False)
    if not output.as_json:
        click.echo()
    written = Generation("".join(texts), tuple(tokens), finished, len(ids))
    return Answer(written, job.options.seed, problem=unfinished_form(request, written))


def _chosen(job: Job, ids: list[int], output: Output) -> Answer:
    """The best of several drafts, or the first that meets the standard."""
    ((_, answer),) = _answers(job, [ids], range(1), output)
    return answer


def _answers(
    job: Job, all_ids: Sequence[Sequence[int]], places: Sequence[int], output: Output
) -> Iterator[tuple[int, Answer]]:
    """The answers to the prompts at `places` as they end, with progress."""
    from mlx_loopai.generation.answers import write_answers

    requests = [job.request(all_ids[place], place) for place in places]
    started, n_tokens = time.perf_counter(), 0
    with progress(len(places), "generating", output.quiet, "answers") as shown:
        for number, answer in write_answers(job.session.loaded, requests, job.best_of, job.standard):
            n_tokens += len(answer.generation.tokens)
            shown.advance(note=f"{n_tokens / (time.perf_counter() - started):.0f} tokens/s")
            yield places[number], answer


def _in_memory(job: Job, prompts: list[Prompt], all_ids: list[list[int]], output: Output) -> list[dict[str, Any]]:
    found = dict(_answers(job, all_ids, range(len(prompts)), output))
    return [{"id": prompt.id, **_row(prompt, found[place])} for place, prompt in enumerate(prompts)]


def _into_file(job: Job, prompts: list[Prompt], all_ids: list[list[int]], output: Output) -> list[dict[str, Any]]:
    """The same, each row written as it ends; rows that the file already holds are kept."""
    from mlx_loopai.generation.answers_file import AnswersFile

    assert output.out is not None
    with AnswersFile(output.out, [prompt.id for prompt in prompts], job.keys(all_ids)) as file:
        missing = [place for place in range(len(prompts)) if place not in file.done]
        if file.done and not output.quiet:
            click.echo(f"{output.out}: {len(file.done)} of {len(prompts)} answers are there already", err=True)
        try:
            for place, answer in _answers(job, all_ids, missing, output) if missing else ():
                file.add(place, _row(prompts[place], answer))
        except KeyboardInterrupt:
            raise Interrupted(
                f"{output.out}: {len(file.done)} of {len(prompts)} answers are written; the same command goes on there"
            ) from None
        return file.finish()


def _row(prompt: Prompt, answer: Answer) -> dict[str, Any]:
    written = answer.generation
    return {
        "prompt": prompt.text,
        # An answer with holes, or a refusal, would be taken for one.
        "text": "" if answer.problem else written.text,
        "prompt_tokens": written.prompt_tokens,
        "generated_tokens": len(written.tokens),
        "finished": written.finished,
        "seed": answer.seed,
        "attempts": answer.attempts,
        "problem": answer.problem,
        "sources": [dataclasses.asdict(source) for source in prompt.sources],
    }


def _attempts(answer: Answer) -> str:
    return "1 attempt" if answer.attempts == 1 else f"{answer.attempts} attempts"
