"""Recognises answers that decline to answer, by how they begin."""

from __future__ import annotations

import regex

# A refusal is at the beginning; a later apology belongs to a story.
_OPENING_CHARS = 200
_SPEECH = regex.compile(r"“[^”]*+”?|\"[^\"]*+\"?|‘[^’]*+’?|「[^」]*+」?|『[^』]*+』?")
# Formal and polite endings only: narration says 없었다.
_CANNOT = (
    r"(?:수(?:는|가)? ?없(?:습니다|어요|네요|는 점)|어렵습니다|어려워요|못합니다|못해요|않습니다|않아요|불가능합니다)"
)
_REFUSALS = regex.compile(
    rf"(?:죄송|미안|유감|양해)[^.!?\n]{{0,80}}{_CANNOT}"
    rf"|(?:도와|답변|대답|응답|제공|작성|생성|요청)[^.!?\n]{{0,30}}{_CANNOT}"
    r"|(?:인공 ?지능|AI|언어) ?(?:언어 ?)?(?:모델|비서|어시스턴트)(?:로서|이기 때문|이라서|이므로|입니다)"
    r"|\b(?:I['’]m|I am) sorry\b[^.!?\n]{0,80}\b(?:can['’]?t|cannot|unable)\b"
    r"|\bI (?:can['’]?t|cannot|won['’]t|am unable to|['’]m unable to) "
    r"(?:help|assist|provide|write|create|generate|answer|fulfil|comply)"
    r"|\bas an AI\b",
    regex.I,
)


def refusal(text: str) -> str:
    """The words by which `text` declines, or "" when it does not.

    Only the first 200 characters are searched, outside quoted speech. A refusal is an apology, or a mention of the
    request, together with a polite "cannot"; or a model that speaks of itself as one. Korean and English.
    """
    opening = _SPEECH.sub(" ", text.strip()[:_OPENING_CHARS])
    found = _REFUSALS.search(opening)
    return found.group() if found else ""
