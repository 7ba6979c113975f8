"""Makes preference pairs against language mixing from the model's own answers: in Korean only, and freely.

Unlike spliced words, a free answer shows how this model leaves Korean: often with its first word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import regex

from mlx_loopai.config import GenerationOptions
from mlx_loopai.data.pairs import MadePairs, Pair
from mlx_loopai.data.sentences import whole_sentences
from mlx_loopai.generation.answer_stream import Text
from mlx_loopai.generation.answers import Answer, Standard, write_answers
from mlx_loopai.generation.prompts import Prompt
from mlx_loopai.generation.ranking import rank
from mlx_loopai.generation.session import Session
from mlx_loopai.progress import Advance, ignore, part
from mlx_loopai.text.korean_only import holds_foreign_words, is_korean_only
from mlx_loopai.text.measures import purity
from mlx_loopai.text.words import quoted_words

# The filter must find nothing in an answer that is to be learnt. A second try is cheap, a third seldom helps.
_STANDARD = Standard(max_removed=0.0, retries=1)
# An answer to learn from may repeat a fifth of its phrases, as a list does.
_LEAST_VARIETY = 0.8
# A request that names one of these may want foreign words, so that no answer of it is wrong for having some.
_WANTS_FOREIGN = regex.compile(
    r"영어|영문|일본어|중국어|한자|한문|[가-힣]{2,3}스어|독일어|스페인어|러시아어|외국어|번역|코드|프로그래밍"
    r"|\b(?:english|japanese|chinese|hanja|french|german|spanish|russian|translat\w*|code|coding|python|html|sql)\b",
    regex.I,
)


@dataclass(frozen=True)
class OwnAnswers:
    """How the answers are written. free: how many to each prompt without constraint.

    length: fewest and most characters of the Korean one.
    """

    free: int
    options: GenerationOptions
    length: tuple[int, int]


def wants_foreign_words(prompt: Prompt) -> bool:
    """Whether a request names another language, or code, so that its answer may be right with foreign words."""
    return bool(_WANTS_FOREIGN.search(prompt.text))


def allowed_words(prompt: Prompt) -> frozenset[str]:
    """The foreign words of a request, in lower case, which its answer may repeat.

    None of a request without Korean: all words of an English request for a Korean answer would be allowed.
    """
    return quoted_words(prompt.text) if purity(prompt.text) else frozenset()


def language_pairs(
    session: Session, prompts: Sequence[Prompt], answers: OwnAnswers, on_progress: Advance = ignore
) -> MadePairs:
    """For each prompt the answer in which only Korean may be written, against the most foreign of the free ones.

    The first free answer draws the same random numbers as the Korean one, so that the two often begin alike. Answers
    that were cut off lose their last, broken sentence.

    Raises: InputError for a prompt that the chat template refuses.
    """
    wanted = [prompt for prompt in prompts if not wants_foreign_words(prompt)]
    n_left_out = len(prompts) - len(wanted)
    ids = [session.prompt_ids(prompt) for prompt in wanted]
    in_korean, freely = (answers.options.model_copy(update={"scripts": scripts}) for scripts in ("ko", "off"))
    before = n_left_out * (1 + answers.free)
    korean = _written(session, ids, in_korean, _STANDARD, part(on_progress, before, ""))
    free = _written(session, ids * answers.free, freely, None, part(on_progress, before + len(ids), ""))
    found = [_pair(prompt, korean[at], free[at :: len(ids)], answers.length) for at, prompt in enumerate(wanted)]
    dropped = Counter(one for one in found if isinstance(one, str))
    if n_left_out:
        dropped["the request names another language, or code"] = n_left_out
    return MadePairs(tuple(one for one in found if isinstance(one, Pair)), dict(dropped))


def _written(
    session: Session,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    standard: Standard | None,
    on_progress: Advance,
) -> list[Answer]:
    """The answer to each prompt; that to prompt i draws from the stream (seed, i)."""
    requests = [session.request(ids, options, row=row) for row, ids in enumerate(prompts)]
    found: dict[int, Answer] = {}
    for place, answer in write_answers(session.loaded, requests, standard=standard):
        found[place] = answer
        on_progress(len(found))
    return [found[place] for place in range(len(requests))]


def _pair(prompt: Prompt, korean: Answer, free: Sequence[Answer], length: tuple[int, int]) -> Pair | str:
    """The pair of one prompt's answers, or why there is none."""
    chosen = _whole(korean.text)
    if korean.problem or not _is_example(chosen, length) or chosen in prompt.text:
        return "no answer in Korean only that is whole, in its length, and repeats neither itself nor the request"
    allowed = allowed_words(prompt)
    rejected = [text for text in map(_whole, (answer.text for answer in free)) if holds_foreign_words(text, allowed)]
    if not rejected:
        return "no free answer has foreign words that the request does not hold"
    return Pair(prompt.answered(chosen), prompt.answered(min(rejected, key=purity)))


def _whole(text: Text) -> str:
    return text.written.strip() if text.finished else whole_sentences(text.written)


def _is_example(text: str, length: tuple[int, int]) -> bool:
    found = rank(text, finished=True)
    in_range = length[0] <= len(text) <= length[1]
    return in_range and is_korean_only(text) and found.does_not_loop and found.variety >= _LEAST_VARIETY
