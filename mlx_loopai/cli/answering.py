"""The work of `generate`: one prompt, whose answer is shown as it is written, or a file of prompts as a batch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.output import emit, progress
from mlx_loopai.errors import Interrupted, LoopaiError, all_problems
from mlx_loopai.language import later, tr

if TYPE_CHECKING:
    from mlx_loopai.config import GenerationOptions
    from mlx_loopai.data.images import Picture
    from mlx_loopai.generation.answer_stream import Text
    from mlx_loopai.generation.answers import Answer, Standard
    from mlx_loopai.generation.grammar import Grammar
    from mlx_loopai.generation.prompts import Prompt
    from mlx_loopai.generation.request import Request
    from mlx_loopai.generation.session import Session
    from mlx_loopai.models.load import LoadedModel
    from mlx_loopai.models.prompt_cache import Prefix

# If the constraint overrules more than this share of first choices, the text is more its work than the model's.
_MUCH_MASKING = 0.1
_ADVICE = later("ask in other words, or raise --retries, --temperature or --max-removed")


@dataclass(frozen=True)
class Output:
    """Where the answers go."""

    out: Path | None
    as_json: bool
    quiet: bool


@dataclass(frozen=True)
class Question:
    """A prompt, the tokens that the model reads of it, and the pictures that it shows."""

    prompt: Prompt
    ids: Sequence[int]
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that is the same for all prompts of a call."""

    session: Session
    options: GenerationOptions
    best_of: int
    grammar: Grammar | None = None
    standard: Standard | None = None
    draft: LoadedModel | None = None
    prefix: Prefix | None = None

    def request(self, question: Question, row: int = 0) -> Request:
        """The request for an answer, drawn from stream `row`. Raises: ContextOverflow if the prompt leaves no room."""
        from mlx_loopai.generation.session import fitted

        options = fitted(self.options, len(question.ids), self.session.loaded.max_positions)
        prefix = self.prefix if self.prefix is not None and self.prefix.fits(question.ids) else None
        request = self.session.request(question.ids, options, self.grammar, row, question.pictures)
        return dataclasses.replace(request, prefix=prefix)

    def requests(self, questions: Sequence[Question]) -> list[Request]:
        """The requests for all prompts of a file. Raises: ContextOverflow naming prompts that leave no room."""
        from mlx_loopai.generation.session import ContextOverflow

        requests, problems = [], []
        for row, question in enumerate(questions):
            try:
                requests.append(self.request(question, row))
            except ContextOverflow as error:
                problems.append(f"{question.prompt.origin}: {error}")
        if problems:
            raise ContextOverflow(all_problems(problems))
        return requests

    def keys(self, questions: Sequence[Question]) -> list[str]:
        """For each prompt a hash of everything that decides its answer."""
        from mlx_loopai.models.prompt_cache import cache_identity

        session = self.session
        settings = {
            **cache_identity(session.loaded.model, session.loaded.base_hash, session.adapter),
            **self.options.model_dump(),
            "best_of": self.best_of,
            "grammar": self.grammar.source if self.grammar else "",
            "standard": repr(self.standard),
        }
        common = json.dumps(settings, sort_keys=True)
        shown = [[picture.digest for picture in one.pictures] for one in questions]
        texts = [f"{common} {list(one.ids)}{seen or ''}" for one, seen in zip(questions, shown, strict=True)]
        return [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]


def answer_one(job: Job, question: Question, output: Output) -> None:
    """Answer one prompt and show it. Raises: LoopaiError when no attempt met the standard."""
    together = job.best_of > 1 or job.standard is not None
    request = job.request(question)
    answer = _chosen(job, request, output) if together else _streamed(job, request, output)
    if answer.problem:
        raise LoopaiError(
            tr(
                "no answer was accepted in {attempts}: {problem}; {advice}",
                attempts=_attempts(answer),
                problem=answer.problem,
                advice=tr(_ADVICE),
            )
        )
    if together and not output.as_json:
        click.echo(answer.text.text)
    document = {**answer.text.as_dict(), "attempts": answer.attempts, "sources": question.prompt.sources}
    emit(document, output.as_json, "")
    if not output.quiet:
        warn_of_cut([document], job.options)
        warn_of_emptied(answer.text)
        # A grammar overrules the model's first choices, too, which is no sign of damage.
        warn_of_damage(0.0 if job.grammar else answer.text.argmax_masked)


def answer_all(job: Job, questions: Sequence[Question], output: Output) -> None:
    """Answer the prompts of a file together.

    Raises: LoopaiError, after all are written, when some answers did not meet the standard; Interrupted after Ctrl-C
    when the finished rows are kept in a file.
    """
    from mlx_loopai.generation.constraint import Tally

    started = time.perf_counter()
    tally = Tally()
    requests = [dataclasses.replace(request, tally=tally) for request in job.requests(questions)]
    rows = _into_file(job, questions, requests, output) if output.out else _in_memory(job, questions, requests, output)
    seconds = time.perf_counter() - started
    n_tokens = sum(row["generated_tokens"] for row in rows)
    document = {
        "results": rows,
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows),
        "generated_tokens": n_tokens,
        "tokens_per_s": n_tokens / seconds,
        "seed": job.options.seed,
        "scripts": job.options.scripts,
        "masked_mass": tally.masked_mass,
        "argmax_masked": tally.argmax_masked,
        "out": output.out,
    }
    if output.out is not None:
        emit(
            document,
            output.as_json,
            tr("{out}: {n} answers, {n_tokens} tokens", out=output.out, n=len(rows), n_tokens=n_tokens),
        )
    else:
        emit(document, output.as_json, "\n\n".join(f"> {row['prompt']}\n{row['text']}" for row in rows))
    if not output.quiet:
        warn_of_cut(rows, job.options)
        warn_of_damage(0.0 if job.grammar else tally.argmax_masked)
    failed = [row for row in rows if row["problem"]]
    if failed:
        first = failed[0]
        raise LoopaiError(
            tr(
                "{n_failed} of {n_rows} answers were not accepted and are left empty; the first, {place}: "
                "{problem}; {advice}",
                n_failed=len(failed),
                n_rows=len(rows),
                place=first["id"],
                problem=first["problem"],
                advice=tr(_ADVICE),
            )
        )


def warn_of_cut(rows: Sequence[Mapping[str, Any]], options: GenerationOptions) -> None:
    """Say on stderr when a text was cut before the model ended it."""
    cut = [row["generated_tokens"] for row in rows if not row["finished"]]
    if not cut:
        return
    which = (
        tr("the text was") if len(rows) == 1 else tr("{n_cut} of {n_rows} texts were", n_cut=len(cut), n_rows=len(rows))
    )
    if max(cut) < options.max_tokens:
        click.echo(tr("{which} cut at the end of the model's context; shorten the prompt", which=which), err=True)
    else:
        click.echo(
            tr(
                "{which} cut after {max_tokens} tokens; --max-tokens allows more",
                which=which,
                max_tokens=options.max_tokens,
            ),
            err=True,
        )


def warn_of_emptied(text: Text) -> None:
    """Say on stderr when the filter removed all of a text, such as an answer that is only code."""
    if text.written.strip() and not text.text.strip():
        click.echo(tr("the filter removed the whole text; --no-filter shows it"), err=True)


def warn_of_damage(argmax_masked: float) -> None:
    """Say on stderr when the constraint had to overrule the model often."""
    if argmax_masked > _MUCH_MASKING:
        click.echo(
            tr(
                "the constraint overruled the model's first choice at {argmax_masked:.0%} of the tokens: the "
                "model itself writes other scripts; see `mlx-loopai evaluate`, or try --scripts off",
                argmax_masked=argmax_masked,
            ),
            err=True,
        )


def _streamed(job: Job, request: Request, output: Output) -> Answer:
    """The answer, shown as it is written."""
    from mlx_loopai.generation.answer_stream import Writing, write
    from mlx_loopai.generation.answers import Answer, unfinished_form

    writing = Writing(request)
    for text in write(job.session.loaded, writing, job.draft):
        if text and not output.as_json:
            click.echo(text, nl=False)
    if not output.as_json:
        click.echo()
    written = writing.text()
    return Answer(written, problem=unfinished_form(request, written))


def _chosen(job: Job, request: Request, output: Output) -> Answer:
    """The best of several drafts, or the first that meets the standard."""
    ((_, answer),) = _answers(job, [request], output)
    return answer


def _answers(job: Job, requests: Sequence[Request], output: Output) -> Iterator[tuple[int, Answer]]:
    """The answers to `requests` in the order in which they end, each with its request's index; shows progress."""
    from mlx_loopai.generation.answers import write_answers

    started, n_tokens = time.perf_counter(), 0
    with progress(len(requests), tr("generating"), output.quiet, later("answers")) as shown:
        for place, answer in write_answers(job.session.loaded, requests, job.best_of, job.standard):
            n_tokens += answer.text.generated_tokens
            shown.advance(note=f"{n_tokens / (time.perf_counter() - started):.0f} tokens/s")
            yield place, answer


def _in_memory(
    job: Job, questions: Sequence[Question], requests: Sequence[Request], output: Output
) -> list[dict[str, Any]]:
    found = dict(_answers(job, requests, output))
    return [{"id": one.prompt.id, **_row(one.prompt, found[place])} for place, one in enumerate(questions)]


def _into_file(
    job: Job, questions: Sequence[Question], requests: Sequence[Request], output: Output
) -> list[dict[str, Any]]:
    """Answer into a file: each row is written as it ends, and rows that the file already holds are kept."""
    from mlx_loopai.generation.answers_file import AnswersFile

    assert output.out is not None
    with AnswersFile(output.out, [one.prompt.id for one in questions], job.keys(questions)) as file:
        missing = [place for place in range(len(questions)) if place not in file.done]
        if file.done and not output.quiet:
            click.echo(
                tr(
                    "{out}: {n_done} of {n_questions} answers are there already",
                    out=output.out,
                    n_done=len(file.done),
                    n_questions=len(questions),
                ),
                err=True,
            )
        try:
            for number, answer in _answers(job, [requests[place] for place in missing], output) if missing else ():
                file.add(missing[number], _row(questions[missing[number]].prompt, answer))
        except KeyboardInterrupt:
            written = tr(
                "{n_done} of {n_questions} answers are written", n_done=len(file.done), n_questions=len(questions)
            )
            raise Interrupted(
                tr("{out}: {written}; the same command continues there", out=output.out, written=written)
            ) from None
        return file.finish()


def _row(prompt: Prompt, answer: Answer) -> dict[str, Any]:
    row = {"prompt": prompt.text, **answer.text.as_dict(), "attempts": answer.attempts, "problem": answer.problem}
    # Left out, so that two files of the same answers are equal: times, and figures that depend on a batch's rounding.
    for name in ("tokens_per_s", "masked_mass", "argmax_masked"):
        del row[name]
    if answer.problem:
        row["text"] = ""  # an answer with holes, or a refusal, would be taken for one
    return row | {"sources": [dataclasses.asdict(source) for source in prompt.sources]}


def _attempts(answer: Answer) -> str:
    return tr("1 attempt") if answer.attempts == 1 else tr("{n} attempts", n=answer.attempts)
