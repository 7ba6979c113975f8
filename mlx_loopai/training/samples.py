"""A few prompts answered by the base and by what is being trained, for somebody to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_loopai.data.records import Message
from mlx_loopai.data.sources import conversations_of
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.evaluation.suites import default_suite, read_suite
from mlx_loopai.evaluation.tasks import Asked
from mlx_loopai.generation.seen_answers import SeenPrompt, seen_answers
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.models.modes import evaluating
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.documents.verdict import Sample
from mlx_loopai.text.measures import json_shaped

SAMPLES, SAMPLE_TOKENS = 4, 120


@dataclass(frozen=True)
class SamplePrompt:
    """A request that is answered for somebody to read. json_taught: whether its row is answered in JSON."""

    message: Message
    json_taught: bool = False

    def sample(self, base: str, tuned: str) -> Sample:
        """The answers of the base and of what is being trained to this request."""
        return Sample(prompt=self.message.shown, base=base, tuned=tuned, json_taught=self.json_taught)


def training_prompts(context: RunContext, limit: int) -> list[SamplePrompt]:
    """At most `limit` distinct requests of the domain rows, in the order of their sources.

    Conversations of several requests are left out, and requests without pictures where the base answers all text.
    """
    found: dict[Message, SamplePrompt] = {}
    for source in context.config.sources.values():
        for record in conversations_of(source.path, source.category, source):
            users = [message for message in record.messages if message.role == "user"]
            if len(users) == 1 and (users[0].pictures or context.config.answers_text):
                answer = record.messages[-1]
                found[users[0]] = SamplePrompt(users[0], answer is not users[0] and json_shaped(answer.content))
            if len(found) == limit:
                return list(found.values())
    return list(found.values())


def sample_prompts(context: RunContext) -> list[SamplePrompt]:
    """What is asked while the run goes on and at its end: half from its rows, half questions of the default suite.

    Where the base answers all text, such questions would show an answer that nobody gets.
    """
    if not context.config.answers_text:
        return training_prompts(context, SAMPLES)
    own = training_prompts(context, SAMPLES // 2)
    tasks = read_suite(default_suite(context.base.path), limit=1)
    asked = [item.prompt for task in tasks if isinstance(task, Asked) for item in task.items]
    return [*own, *(SamplePrompt(Message("user", text)) for text in asked[: SAMPLES - len(own)])]


def answers(loaded: LoadedModel, encoder: ChatEncoder, prompts: Sequence[SamplePrompt]) -> tuple[str, ...]:
    """What the model answers now, likeliest tokens only: nothing is drawn, and nothing changes."""
    messages = [prompt.message for prompt in prompts]
    asked = [SeenPrompt(encoder.prompt_ids([message]), message.pictures) for message in messages]
    with evaluating(loaded.model):
        return tuple(one.written for one in seen_answers(loaded, asked, SAMPLE_TOKENS))


def base_answers(loaded: LoadedModel, encoder: ChatEncoder, prompts: Sequence[SamplePrompt]) -> tuple[str, ...]:
    """The same of the model with its adapter off."""
    with adapter_disabled(loaded.model):
        return answers(loaded, encoder, prompts)


@dataclass
class Samples:
    """The same prompts, answered again and again while a run goes on. prompts: called once, for the first answers."""

    loaded: LoadedModel
    encoder: ChatEncoder
    prompts: Callable[[], list[SamplePrompt]]
    _asked: list[SamplePrompt] = field(default_factory=list)
    _base: tuple[str, ...] = ()

    def read(self) -> tuple[Sample, ...]:
        """The base's answers, which are generated once, with those of the model as it is now."""
        if not self._asked:
            self._asked = self.prompts()
            self._base = base_answers(self.loaded, self.encoder, self._asked)
        tuned = answers(self.loaded, self.encoder, self._asked)
        mx.clear_cache()  # its buffers have other sizes than those of a step
        return tuple(prompt.sample(base, now) for prompt, base, now in zip(self._asked, self._base, tuned, strict=True))
