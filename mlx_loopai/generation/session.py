"""A model that is ready to answer: weights, adapter and the system prompt that training used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from mlx_loopai.config import GenerationOptions
from mlx_loopai.data.conversation import pictures_in
from mlx_loopai.data.images import Picture
from mlx_loopai.data.records import Record
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.errors import InputError
from mlx_loopai.generation.answer_stream import policy_of
from mlx_loopai.generation.constraint import Constraint, Tally, build_constraint
from mlx_loopai.generation.grammar import Grammar
from mlx_loopai.generation.prompts import Prompt, build_messages
from mlx_loopai.generation.repetition import RepetitionGuard
from mlx_loopai.generation.request import Request
from mlx_loopai.generation.seeing import Eyes
from mlx_loopai.generation.switch import Switch
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import ADAPTER_SCOPE, check_base
from mlx_loopai.models.learnt import find_learnt, put_learnt, read_learnt
from mlx_loopai.models.load import Base, LoadedModel, hash_base
from mlx_loopai.models.prompt_cache import Prefix
from mlx_loopai.text.alphabet import Scripts

AdapterWhen = Literal["always", "auto"]
# A longer context is rarely wanted, and the keys and values of each conversation may grow to this.
_USUAL_CONTEXT = 8192
# A table of the default policy on a vocabulary of 150,000 tokens takes 56 MB.
_KEPT_CONSTRAINTS = 4


class ContextOverflow(InputError):
    """A prompt and its answer have no room in the context."""


class Constraints:
    """The constraints of one model by policy; those asked for last are kept. Use it from the thread that owns MLX."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._kept: dict[tuple[Scripts, bool], Constraint | None] = {}

    def get(self, scripts: Scripts, code_fences: bool) -> Constraint | None:
        """None for `off`. Raises: InputError for a tokenizer whose bytes are unknown."""
        wanted = (scripts, code_fences)
        found = self._kept.pop(wanted, None) or build_constraint(self._loaded, scripts, code_fences)
        self._kept[wanted] = found
        if len(self._kept) > _KEPT_CONSTRAINTS:
            del self._kept[next(iter(self._kept))]
        return found


class Tools:
    """What the answers of one model need besides its weights; each is made when it is first asked for."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.constraints = Constraints(loaded)

    @cached_property
    def guard(self) -> RepetitionGuard:
        return RepetitionGuard(self.loaded)

    @cached_property
    def eyes(self) -> Eyes | None:
        """Reads pictures; None for a text-only model."""
        return None if self.loaded.vision is None else Eyes(self.loaded.vision)

    @cached_property
    def encoder(self) -> ChatEncoder:
        return ChatEncoder(self.loaded.tokenizer, sight=None if self.eyes is None else self.eyes.sight)


@dataclass(frozen=True)
class Session:
    """A loaded model, its adapter, and everything else that answers depend on.

    system_prompt: the one given, else the adapter's own, else "" (the chat template's default applies). switch: decides
    for each prompt whether the adapter answers it; None: it always does. for_pictures: the adapter was trained to
    answer prompts with pictures only. tools: shared by the sessions of one model; those of another model are replaced.
    """

    loaded: LoadedModel
    system_prompt: str
    adapter: Path | None
    switch: Switch | None = None
    for_pictures: bool = False
    tools: Tools = field(default=None, repr=False, compare=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.tools is None or self.tools.loaded is not self.loaded:
            object.__setattr__(self, "tools", Tools(self.loaded))

    def context(self, wanted: int | None = None) -> int:
        """Tokens of prompt and answer together in a conversation: `wanted`, else the model's, at most 8192.

        Raises: InputError when the model was made for fewer.
        """
        most = self.loaded.max_positions
        if wanted is not None and wanted > most:
            raise InputError(
                tr(
                    "`context` {wanted}: the model was made for {most} tokens; give at most that",
                    wanted=wanted,
                    most=most,
                )
            )
        return wanted or min(most, _USUAL_CONTEXT)

    def request(
        self,
        ids: Sequence[int],
        options: GenerationOptions,
        grammar: Grammar | None = None,
        row: int = 0,
        pictures: Sequence[Picture] = (),
        read: Prefix | None = None,
    ) -> Request:
        """The request for an answer to the prompt `ids` under `options`; every way from a prompt to text begins here.

        pictures: those of the prompt, in order. read: what the base has read of it, for the switch.

        Raises: InputError for unknown scripts, a tokenizer whose bytes are unknown, or pictures that cannot be read.
        """
        seen = None
        if pictures:
            assert self.tools.eyes is not None  # without them `prompt_ids` refuses
            seen = self.tools.eyes.pictures(ids, pictures)
        scripts = Scripts.parse(options.scripts)
        cleans = options.filter
        if cleans is None:
            # In these cases the model's own text is wanted, with code and markup.
            cleans = not (scripts.is_off or options.code_fences or grammar)
        return Request(
            prompt=ids,
            options=options,
            constraint=self.tools.constraints.get(scripts, options.code_fences),
            tally=Tally(),
            row=row,
            grammar=grammar,
            stops=options.stop,
            policy=policy_of(scripts) if cleans else None,
            guard=self.tools.guard if options.repetition_guard else None,
            adapter=self.uses_adapter(ids, bool(pictures), read),
            pictures=seen,
        )

    def pictures(self, prompt: Prompt, few_shot: Sequence[Record] = ()) -> tuple[Picture, ...]:
        """All pictures that `prompt` and its examples show, in the order of their tokens."""
        return pictures_in(build_messages(prompt.messages, few_shot, self.system_prompt))

    def uses_adapter(self, ids: Sequence[int], shows_pictures: bool = False, read: Prefix | None = None) -> bool:
        """Whether the adapter answers this prompt. A switch decides, and reads the prompt from where `read` ends."""
        if self.for_pictures and not shows_pictures:
            return False
        # A switch was fitted on prompts of text.
        if self.adapter is None or self.switch is None or shows_pictures:
            return self.adapter is not None
        return self.switch.chooses_adapter(self.loaded.model, ids, read)

    def prompt_ids(
        self,
        prompt: Prompt,
        few_shot: Sequence[Record] = (),
        options: GenerationOptions | None = None,
        begun: str = "",
    ) -> list[int]:
        """The tokens that `prompt` and its examples become: the same form as a training row's.

        options: whether the model thinks first, and whether names of control tokens are those tokens. begun: the
        beginning of the answer, where one is to be continued.

        Raises: InputError naming the prompt's origin when the chat template refuses it.
        """
        messages = build_messages(prompt.messages, few_shot, self.system_prompt)
        thinks, special = (options.thinking, options.allow_special) if options else (False, False)
        return self.tools.encoder.prompt_ids(messages, thinks, special, begun, prompt.tools, prompt.origin)


def answer_room(options: GenerationOptions, context_tokens: int) -> int:
    """Tokens to keep free for an answer: `max_tokens`, or half of the context where that is not set.

    Examples, passages and earlier turns may take the rest.
    """
    return options.max_tokens if options.limits_length else min(options.max_tokens, context_tokens // 2)


def fitted(options: GenerationOptions, n_prompt: int, context_tokens: int) -> GenerationOptions:
    """`options` with a `max_tokens` that the context has room for after a prompt of `n_prompt` tokens.

    Raises: ContextOverflow when there is no room, or less than `max_tokens` asks for.
    """
    room = context_tokens - n_prompt
    wanted = options.max_tokens if options.limits_length else 1
    if room < wanted:
        raise ContextOverflow(
            tr(
                "the prompt has {n_prompt} tokens and its answer may have {wanted}, more than the context of "
                "{context_tokens} together; shorten it, or lower `max_tokens`",
                n_prompt=n_prompt,
                wanted=wanted,
                context_tokens=context_tokens,
            )
        )
    return options.model_copy(update={"max_tokens": min(options.max_tokens, room)})


def open_session(
    model: str,
    adapter: Path | None = None,
    system_prompt: str | None = None,
    dtype: str = "auto",
    adapter_when: AdapterWhen = "always",
) -> Session:
    """Load `model`, and on it what a run has learnt when given: its folder, or that of its adapter or whole model.

    adapter_when: `auto` lets the adapter's switch decide for each prompt whether it or the base answers.

    Raises: InputError for an unknown model, a folder that holds no adapter, or an adapter of another base.
    """
    adapters = [] if adapter is None else [find_learnt(adapter)]
    base = open_base(model, adapters, dtype, adapter_when)
    if not adapters:
        return replace(base, system_prompt=system_prompt or "")
    return with_adapter(base, adapters[0], system_prompt, adapter_when)


def open_base(model: str, adapters: Sequence[Path], dtype: str, adapter_when: AdapterWhen) -> Session:
    """A session of `model` itself, on which the folders `adapters` can be put.

    The folders are checked before the weights are read: a mistake should not cost a minute of loading.
    Raises: InputError as `open_session`.
    """
    if adapter_when == "auto" and not adapters:
        raise InputError(tr("`adapter_when` auto: there is no adapter to switch; give `adapter`"), "adapter_when")
    configs = [read_learnt(folder) for folder in adapters]
    base = Base.open(model)
    for folder, config in zip(adapters, configs, strict=True):
        check_base(folder, config, hash_base(base.path))
    return Session(loaded=base.load(dtype), system_prompt="", adapter=None)


def with_adapter(base: Session, folder: Path, system_prompt: str | None, adapter_when: AdapterWhen) -> Session:
    """The session of the adapter in `folder`, which is put on the model of `base`. Raises: InputError as above."""
    loaded = base.loaded
    put_learnt(loaded.model, folder, loaded.base_hash)
    loaded.model.eval()
    switch = Switch.load(folder, loaded.model.model.norm.weight.shape[0]) if adapter_when == "auto" else None
    ours = read_learnt(folder).get("mlx_loopai") or {}
    prompt = str(ours.get("system_prompt") or "") if system_prompt is None else system_prompt
    return replace(
        base,
        system_prompt=prompt,
        adapter=folder,
        switch=switch,
        for_pictures=ours.get(ADAPTER_SCOPE) == "image",
    )
