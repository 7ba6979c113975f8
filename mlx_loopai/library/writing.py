"""`load`, `generate` and `stream`: text from prompts, as the commands and the server generate it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_loopai.config import generation_options
from mlx_loopai.data.images import given_picture
from mlx_loopai.data.records import Record
from mlx_loopai.errors import InputError
from mlx_loopai.generation.answer_stream import Text, Writing, write
from mlx_loopai.generation.answers import write_answers
from mlx_loopai.generation.genres import GENRE_NAMES, shown_first
from mlx_loopai.generation.prompts import as_prompt
from mlx_loopai.generation.request import Request
from mlx_loopai.generation.session import AdapterWhen, Session, fitted, open_session
from mlx_loopai.language import tr
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.runs.base_of_adapter import base_of

Messages = Sequence[Mapping[str, str]]
"""Turns with `role` (system, user, assistant) and `content`; the last is the user's."""
Images = Sequence[str | Path]
"""Paths of pictures: PNG, JPEG or WebP."""


class TextStream:
    """A text while it is generated: iterate over it for the pieces; `result` then has the text and its figures."""

    def __init__(self, loaded: LoadedModel, request: Request) -> None:
        self._writing = Writing(request)
        self._pieces = write(loaded, self._writing)

    def __iter__(self) -> Iterator[str]:
        return (piece for piece in self._pieces if piece)

    @property
    def result(self) -> Text:
        """The whole text, or as much of it as is generated so far."""
        return self._writing.text()


class Model:
    """A model in memory, with or without an adapter. `load` makes one; use it from one thread."""

    def __init__(self, session: Session, examples: Sequence[Record] = ()) -> None:
        self._session, self._examples = session, tuple(examples)

    @property
    def context_tokens(self) -> int:
        """Largest number of tokens of a prompt and its text together."""
        return self._session.loaded.max_positions

    def generate(self, prompt: str | Messages, *, images: Images = (), **options: Any) -> Text:
        """The text for one prompt. options: fields of `GenerationOptions`, such as max_tokens=200 or seed=1.

        images: PNG, JPEG or WebP files that the prompt shows before its text. Raises: InputError for an empty prompt,
        an option that is unknown or out of range, pictures that cannot be read or a model that reads none, or a prompt
        that leaves no room for its text in the model's context.
        """
        stream = self.stream(prompt, images=images, **options)
        for _ in stream:
            pass
        return stream.result

    def stream(self, prompt: str | Messages, *, images: Images = (), **options: Any) -> TextStream:
        """The text for one prompt as it is written; everything else as `generate`."""
        return TextStream(self._session.loaded, self._request(prompt, 0, options, images))

    def generate_all(self, prompts: Sequence[str | Messages], **options: Any) -> list[Text]:
        """The texts for many prompts, in a batch, which is faster than one by one. Text i draws from random stream i.

        Raises: InputError as `generate`.
        """
        requests = [self._request(prompt, row, options) for row, prompt in enumerate(prompts)]
        found = dict(write_answers(self._session.loaded, requests))
        return [found[place].text for place in range(len(requests))]

    def _request(self, prompt: str | Messages, row: int, options: Mapping[str, Any], images: Images = ()) -> Request:
        chosen, session = generation_options(options), self._session
        asked = as_prompt(prompt, [given_picture(image) for image in images])
        ids = session.prompt_ids(asked, self._examples, chosen)
        shown = session.pictures(asked, self._examples)
        return session.request(ids, fitted(chosen, len(ids), self.context_tokens), row=row, pictures=shown)


def load(
    model: str | Path | None = None,
    adapter: str | Path | None = None,
    *,
    system: str | None = None,
    examples: str | Path | None = None,
    dtype: str = "auto",
    adapter_when: AdapterWhen = "always",
) -> Model:
    """Open a model: nano (embedded), a folder, or a hub id, with the adapter of a run on it when one is given.

    model: without it the base that the adapter was trained on, or nano.

    system: the system prompt; without it the one the adapter was trained with, if any. examples: shown to the model
    before every prompt; a file of rows with a request and its answer, or a genre whose examples come with the program
    (판타지, 로맨스, 동화, 시, 수필). adapter_when: `auto` lets the base answer what is unlike the rows that the adapter
    was trained on. dtype: fp32, bf16 or fp16; auto is fp32 on a CPU and bf16 on Metal.

    Raises: InputError for an unknown model, for examples that are neither, or for an adapter that is missing or of
    another base.
    """
    genre = examples if examples in GENRE_NAMES else None
    file = None if examples is None or genre else Path(examples)
    if file is not None and not file.is_file():
        raise InputError(
            tr(
                "`examples` {file}: neither a file nor a genre ({genre_names})",
                file=file,
                genre_names=", ".join(GENRE_NAMES),
            ),
            "examples",
        )
    shown, prompt = shown_first(genre, file, system)
    folder = None if adapter is None else Path(adapter)
    name = base_of(folder, None if model is None else str(model))
    return Model(open_session(name, folder, prompt, dtype, adapter_when), shown)


def generate(
    prompt: str | Messages, model: str | Path | Model | None = None, adapter: str | Path | None = None, **options: Any
) -> Text:
    """The text for one prompt, in `.text` of the result.

    options: fields of `GenerationOptions`, `images`, and `system` and `adapter_when` as for `load`. A model given by
    name is loaded anew in every call; for several calls, pass what `load` returns.
    Raises: InputError as `load` and `Model.generate`.
    """
    return _ready(model, adapter, options).generate(prompt, **options)


def stream(
    prompt: str | Messages, model: str | Path | Model | None = None, adapter: str | Path | None = None, **options: Any
) -> TextStream:
    """The same as `generate`, piece by piece as it is written."""
    return _ready(model, adapter, options).stream(prompt, **options)


def _ready(model: str | Path | Model | None, adapter: str | Path | None, options: dict[str, Any]) -> Model:
    """The model of a call; options for loading it are taken out of `options`."""
    system, adapter_when = options.pop("system", None), options.pop("adapter_when", "always")
    if not isinstance(model, Model):
        return load(model, adapter, system=system, adapter_when=adapter_when)
    for name, given in (("adapter", adapter), ("system", system)):
        if given is not None:
            raise InputError(tr("`{name}`: the model is loaded already; give it to `load`", name=name), name)
    return model
