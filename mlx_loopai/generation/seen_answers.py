"""Greedy answers to many prompts, of which some may show pictures; for measurements and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_loopai.config import SamplingOptions
from mlx_loopai.data.images import Picture
from mlx_loopai.generation.answer_stream import Text
from mlx_loopai.generation.answers import write_answers
from mlx_loopai.generation.request import Request
from mlx_loopai.generation.seeing import Eyes
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.pass_sizes import ANSWERED_ROWS
from mlx_loopai.progress import Advance, ignore


@dataclass(frozen=True)
class SeenPrompt:
    """A prompt's tokens, and the pictures that it shows, in order."""

    ids: Sequence[int]
    pictures: Sequence[Picture] = ()


def seen_answers(
    loaded: LoadedModel, prompts: Sequence[SeenPrompt], max_tokens: int, on_progress: Advance = ignore
) -> list[Text]:
    """The answers in the order of `prompts`; `on_progress` is called with the number that have ended.

    The encoder's memory is given back at the end. Raises: InputError for a file that is not a picture.
    """
    found: dict[int, Text] = {}
    eyes = None if loaded.vision is None else Eyes(loaded.vision)
    options = SamplingOptions(temperature=0.0, max_tokens=max_tokens)
    # Batch by batch, so that the features of one batch are in memory at a time.
    for begin in range(0, len(prompts), ANSWERED_ROWS):
        requests = []
        for prompt in prompts[begin : begin + ANSWERED_ROWS]:
            # Prompts with pictures are encoded by a model that sees.
            seen = eyes.pictures(prompt.ids, prompt.pictures) if eyes is not None and prompt.pictures else None
            requests.append(Request(prompt.ids, options, pictures=seen))
        for place, answer in write_answers(loaded, requests):
            found[begin + place] = answer.text
            on_progress(len(found))
    if loaded.vision is not None:
        loaded.vision.close()
    return [found[place] for place in range(len(prompts))]
