"""Encodes records as token rows: the tokens that the model reads, and which of them it learns to write.

The template's text and the model's text are tokenised separately, in training as in generation. So a training row
begins with exactly the tokens that generation is given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mlx_loopai.data.byte_pairs import BytePairs
from mlx_loopai.data.conversation import Message, Record, pictures_in
from mlx_loopai.data.images import Picture
from mlx_loopai.data.sentences import sentence_units
from mlx_loopai.data.sight import Sight, marked
from mlx_loopai.data.special import SpecialNames
from mlx_loopai.data.template import ChatTemplate, Turn
from mlx_loopai.data.text_tokens import byte_pairs, text_ids
from mlx_loopai.data.unanswered import Wishes
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.micro_batch import PictureRows

# When a long answer is divided, this share of each row repeats the end of the part before it, unsupervised.
_CONTEXT_SHARE = 0.25
# A part of a row: its text, or the tokens of it, and whether it is learnt.
_Part = tuple[str | list[int], bool]
_Made = TypeVar("_Made")

REHEARSAL = "rehearsal"


@dataclass(frozen=True, eq=False)
class TokenRow:
    """One row of T tokens. `supervised[t]`: token t is a target, given the tokens before it; never token 0.

    category: the record's, or `REHEARSAL` for a row that a phase mixes in. weights: relative weights of the tokens'
    losses; None: all equal. base_states: the base's final states that predict its N targets, where they are known.

    rejected: the worse answer to the same prompt, where this is the better one of a pair. good: the label of a single
    answer; None without one. reference: the base's log-probability of a judged row's targets, summed nats, once it is
    known. pictures: those of its picture tokens, in order. seen: their features, once they are known. ability: what a
    general row asks for, a name of `samples.texts.ABILITIES`; "" where that is not known.

    candidates: of type `CANDIDATES`, the tokens that might follow at a position; the row's only target is the best of
    them. begun: how many tokens before its first target belong to the answer and not to the prompt. wishes: of the
    answer to a row that is a prompt alone, without any target.
    """

    ids: npt.NDArray[np.int32]  # [T]
    supervised: npt.NDArray[np.bool_]  # [T]
    origin: str
    category: str
    weights: npt.NDArray[np.float32] | None = None  # [T]
    base_states: npt.NDArray[np.float32] | None = None  # [N, D]
    rejected: TokenRow | None = None
    good: bool | None = None
    reference: float = 0.0
    pictures: tuple[Picture, ...] = ()
    seen: PictureRows | None = None  # of this row alone
    ability: str = ""
    candidates: npt.NDArray[np.void] | None = None  # [K]
    begun: int = 0
    wishes: Wishes | None = None

    @property
    def judged(self) -> bool:
        """Whether it is the better answer of a pair, has a label, or is a position in an answer."""
        return self.rejected is not None or self.good is not None or self.candidates is not None

    @property
    def prompt(self) -> npt.NDArray[np.int32]:
        """The tokens before its first answer; of an answer that is begun, those before its beginning."""
        return self.ids if self.wishes is not None else self.ids[: int(self.supervised.argmax()) - self.begun]

    @property
    def answers(self) -> list[TokenRow]:
        """The row, and the worse answer of a pair after it."""
        return [self] if self.rejected is None else [self, self.rejected]

    @property
    def longest(self) -> int:
        """Tokens of the longer of its answers."""
        return max(len(row.ids) for row in self.answers)


class ChatEncoder:
    """Encodes records and prompts with one tokenizer, chat template and system prompt.

    `tokenizer` is an mlx-lm TokenizerWrapper or a Hugging Face tokenizer; only `apply_chat_template`, `encode` with and
    without `add_special_tokens=False`, the call with many texts, and `eos_token_id` are used. sight: the model's image
    processor; without it messages with pictures are refused.
    """

    def __init__(self, tokenizer: Any, system_prompt: str = "", sight: Sight | None = None) -> None:
        self.tokenizer, self.system_prompt, self.sight = tokenizer, system_prompt, sight
        self._template = ChatTemplate(tokenizer, system_prompt)
        self._quick: BytePairs | None = None

    def hasten(self) -> BytePairs | None:
        """Encode faster from now on, where the tokens are certainly the same. It takes as long as some MB of rows."""
        self._quick = byte_pairs(self.tokenizer)
        return self._quick

    def encode(self, record: Record) -> TokenRow:
        """The row of a record, however long.

        Chat: the tokens of every answer and of its end-of-turn marker are supervised, nothing else; turns after
        the last answer teach nothing and are left out. Text: it begins with what the tokenizer puts before every text
        (a begin-of-text token, or nothing), an end-of-text token is appended, and every token but the first is
        supervised.

        Raises: InputError naming the record's origin when the chat template does not suit it.
        """
        (found,) = self.encode_many([record])
        if isinstance(found, InputError):
            raise found
        return found

    def encode_many(self, records: Sequence[Record]) -> list[TokenRow | InputError]:
        """The row of each record as `encode` gives it, or the error that it raises. Faster than one by one."""
        parts = [_or_error(self._parts, record) for record in records]
        texts = [text for found in parts if isinstance(found, list) for text, _ in found if isinstance(text, str)]
        ids = iter(self._ids(texts))
        tokens = [
            [(next(ids) if isinstance(part, str) else part, taught) for part, taught in found]
            if isinstance(found, list)
            else found
            for found in parts
        ]
        return [
            _or_error(self._row, record, found) if isinstance(found, list) else found
            for record, found in zip(records, tokens, strict=True)
        ]

    def prompt_ids(
        self,
        messages: Sequence[Message],
        thinks: bool = False,
        allow_special: bool = False,
        begun: str = "",
        tools: str = "",
        origin: str = "prompt",
    ) -> list[int]:
        """The tokens after which the model writes its next answer; the same as in a training row up to there.

        begun: the beginning of the answer, where the model is to continue one. tools: JSON text of the functions that
        it may call. thinks: whether the model thinks before it answers, where the template has a switch for that.
        allow_special: whether a control token's name in the messages means that token; otherwise it is text.

        Raises: InputError naming `origin` when the chat template refuses the messages, knows no tools, or the model
        sees no pictures.
        """
        given = messages if allow_special else [self._special.hidden(message) for message in messages]
        if tools and not allow_special:
            # Inside JSON text a name may be written with escapes.
            tools = self._special.hide(json.dumps(json.loads(tools), ensure_ascii=False))
        given, pictures = self._marked(given, origin)
        past, last = self._template.prompt(given, origin, tools, thinks)
        texts = [text for turn in past for text in (turn.before, turn.answer, turn.closing)]
        texts += [last, begun if allow_special else self._special.hide(begun)]
        return self._with_pictures(list(chain.from_iterable(self._ids(texts))), pictures)

    def split_long(self, record: Record, max_tokens: int, whole: TokenRow | None = None) -> list[TokenRow]:
        """The record in rows of at most `max_tokens`, each answer token supervised once.

        whole: its row as `encode` gives it, where it is known.

        Divided between exchanges first, then inside an answer or text after a sentence or line: a continuation
        shows its prompt and some text before it, unsupervised, and only the last part ends the turn.

        Raises: InputError naming the origin when a prompt or a sentence alone is too long.
        """
        whole = whole or self.encode(record)
        if len(whole.ids) <= max_tokens:
            return [whole]
        if whole.pictures:
            raise InputError(
                tr(
                    "{origin}: {tokens} tokens with its pictures are more than the {most} of a row, and rows with"
                    " pictures are not divided; raise train.max_tokens, or lower vision.max_pixels",
                    origin=record.origin,
                    tokens=len(whole.ids),
                    most=max_tokens,
                )
            )
        if record.kind == "text":
            units = self._text_units(record, sentence_units(_text_of(record)))
            return self._divide(record, self._text_start, units, max_tokens)
        rows: list[TokenRow] = []
        for messages in self._pack_exchanges(record, max_tokens):
            part = replace(record, messages=messages)
            row = self.encode(part)
            rows += [row] if len(row.ids) <= max_tokens else self._divide_answer(part, max_tokens)
        return rows

    def _pack_exchanges(self, record: Record, max_tokens: int) -> list[tuple[Message, ...]]:
        """Parts of as many whole exchanges as fit; an exchange that does not fit is a part of its own."""
        system, exchanges = _exchanges(_until_last_answer(record))
        parts: list[tuple[Message, ...]] = []
        for exchange in exchanges:
            joined = (*parts[-1], *exchange) if parts else ()
            if joined and self._length(joined, record) <= max_tokens:
                parts[-1] = joined
            else:
                parts.append((*system, *exchange))
        return parts

    def _length(self, messages: tuple[Message, ...], record: Record) -> int:
        return len(self.encode(replace(record, messages=messages)).ids)

    def _divide_answer(self, record: Record, max_tokens: int) -> list[TokenRow]:
        *past, turn = self._chat_turns(record)
        if past or not turn.taught:
            raise InputError(
                tr(
                    "{origin}: several answers to one request are longer than {max_tokens} tokens together; raise "
                    "train.max_tokens or make them rows of their own",
                    origin=record.origin,
                    max_tokens=max_tokens,
                )
            )
        before, closing, *units = self._ids([turn.before, turn.closing, *sentence_units(turn.answer)])
        units[-1] = units[-1] + closing
        return self._divide(record, before, units, max_tokens)

    def _divide(self, record: Record, head: list[int], units: list[list[int]], max_tokens: int) -> list[TokenRow]:
        room = max_tokens - len(head)
        longest = max(map(len, units))
        if longest > room:
            prompt = tr("its prompt has {n_head} tokens and ", n_head=len(head)) if head else ""
            raise InputError(
                tr(
                    "{origin}: {prompt}its longest sentence has {longest}, more than the {max_tokens} of a row, and "
                    "sentences are not cut; raise train.max_tokens or shorten the text",
                    origin=record.origin,
                    prompt=prompt,
                    longest=longest,
                    max_tokens=max_tokens,
                )
            )
        parts = _pack_units(units, room)
        return [self._row(record, [(head, False), (context, False), (part, True)]) for context, part in parts]

    @cached_property
    def _text_start(self) -> list[int]:
        return text_start(self.tokenizer)

    @cached_property
    def _special(self) -> SpecialNames:
        try:
            scaffold = self._template.scaffold
        except InputError:
            scaffold = ""  # no template: rows of plain text
        return SpecialNames.of(self.tokenizer, scaffold)

    def _chat_turns(self, record: Record) -> list[Turn]:
        messages = _until_last_answer(record)
        if not record.allow_special:
            messages = tuple(self._special.hidden(message) for message in messages)
        given, _ = self._marked(messages, record.origin)
        return self._template.turns(given, record.origin, record.tools)

    def _marked(self, messages: Sequence[Message], origin: str) -> tuple[list[Message], tuple[Picture, ...]]:
        """As `sight.marked`. Raises: InputError naming `origin` too."""
        try:
            return marked(messages, self.sight)
        except InputError as error:
            raise InputError(f"{origin}: {error}") from None

    def _parts(self, record: Record) -> list[_Part]:
        if record.kind == "text":
            (unit,) = self._text_units(record, [_text_of(record)])
            return [(self._text_start, False), (unit, True)]
        return [part for turn in self._chat_turns(record) for part in _turn_parts(turn)]

    def _text_units(self, record: Record, texts: Sequence[str]) -> list[list[int]]:
        end = self.tokenizer.eos_token_id
        if end is None:
            raise InputError(tr("the tokenizer names no end-of-text token; set eos_token in tokenizer_config.json"))
        texts = list(texts)
        # A text may bring its own beginning and end.
        texts[0] = texts[0].removeprefix(self._start_text)
        texts[-1] = texts[-1].removesuffix(self.tokenizer.decode([int(end)]))
        units = self._ids([text if record.allow_special else self._special.hide(text) for text in texts])
        units[-1] = [*units[-1], int(end)]
        return units

    @cached_property
    def _start_text(self) -> str:
        return self.tokenizer.decode(self._text_start) if self._text_start else ""

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text; the picture of number k is the token -1 - k."""
        return text_ids(self.tokenizer, self._special, texts, self._quick)

    def _with_pictures(self, ids: Sequence[int], pictures: Sequence[Picture]) -> list[int]:
        """`ids` with the tokens of `pictures` in their places."""
        if not pictures:
            return list(ids)
        assert self.sight is not None
        sight = self.sight
        return [token for one in ids for token in ([one] if one >= 0 else sight.tokens(pictures[-1 - one]))]

    def _row(self, record: Record, parts: Sequence[tuple[list[int], bool]]) -> TokenRow:
        if pictures := pictures_in(_until_last_answer(record)):
            parts = [(self._with_pictures(tokens, pictures), taught) for tokens, taught in parts]
        length = sum(len(tokens) for tokens, _ in parts)
        ids = np.fromiter(chain.from_iterable(tokens for tokens, _ in parts), np.int32, length)
        marks = bytearray().join(bytes((taught,)) * len(tokens) for tokens, taught in parts)
        supervised = np.frombuffer(marks, np.bool_)
        supervised[:1] = False
        if not np.count_nonzero(supervised):
            raise InputError(
                tr("{origin}: no token of this row can be learnt; remove the row or lengthen it", origin=record.origin)
            )
        return TokenRow(ids, supervised, origin=record.origin, category=record.category, pictures=pictures)


def _turn_parts(turn: Turn) -> list[_Part]:
    return [(turn.before, False), (turn.answer, turn.taught), (turn.closing, turn.taught)]


def _or_error(make: Callable[..., _Made], *given: Any) -> _Made | InputError:
    """What `make` gives, or the error that it raises."""
    try:
        return make(*given)
    except InputError as error:
        return error


def text_start(tokenizer: Any) -> list[int]:
    """The tokens that `tokenizer` puts before every text, such as a begin-of-text token.

    Models that were trained with it depend on it; mlx-lm's text rows and completions have it too.
    """
    plain, whole = list(tokenizer.encode("a", add_special_tokens=False)), list(tokenizer.encode("a"))
    starts = [at for at in range(len(whole)) if whole[at : at + len(plain)] == plain]
    return whole[: starts[0]] if starts else []


def _text_of(record: Record) -> str:
    return "\n\n".join(message.content for message in record.messages)


def _until_last_answer(record: Record) -> tuple[Message, ...]:
    answers = [index for index, message in enumerate(record.messages) if message.role == "assistant"]
    if not answers:
        raise InputError(
            tr("{origin}: no assistant turn: there is nothing to learn from this row", origin=record.origin)
        )
    return record.messages[: answers[-1] + 1]


def _exchanges(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system messages, and runs of messages that each end where a request follows an answer."""
    system = [message for message in messages if message.role == "system"]
    exchanges: list[list[Message]] = []
    previous = "assistant"
    for message in messages:
        if message.role == "system":
            continue
        if (message.role == "user" and previous == "assistant") or not exchanges:
            exchanges.append([])
        exchanges[-1].append(message)
        previous = message.role
    return system, exchanges


def _pack_units(units: list[list[int]], room: int) -> list[tuple[list[int], list[int]]]:
    """(context, part) pairs of at most `room` tokens; the parts are the units in order, each once.

    The context is the end of the part before: whole units up to a share of the room, at least one token when
    there is room for it (the first token of a row cannot be a target).
    """
    pairs: list[tuple[list[int], list[int]]] = []
    start = 0
    while start < len(units):
        free = room - len(units[start])
        context = units[start - 1][-1:] if start and free else []
        back = start - 1
        shown: list[int] = []
        while back >= 0 and len(units[back]) + len(shown) <= min(free, int(room * _CONTEXT_SHARE)):
            shown = units[back] + shown
            back -= 1
        context = shown or context
        part: list[int] = []
        while start < len(units) and len(context) + len(part) + len(units[start]) <= room:
            part += units[start]
            start += 1
        pairs.append((context, part))
    return pairs
