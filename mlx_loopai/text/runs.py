"""Filter stage that removes foreign sentences and phrases, and lines of programs.

A run is foreign text with the signs between its words; it ends at Hangul or with the line. Its sentences are judged one
by one (`units`), the last one together with the text that follows it (`surroundings`). When one is removed, the whole
run is removed with its punctuation. Two exceptions stay: a last sentence that is bound, and a first one that continues
the Korean sentence before it and is not prose. So nothing is half removed, and a second pass decides the same.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

import regex

from mlx_loopai.text.addresses import has_address
from mlx_loopai.text.binding import attached
from mlx_loopai.text.code_lines import MAX_CODE_LINE_CHARS, is_code
from mlx_loopai.text.edges import (
    GOES_ON,
    LATER_MENTION,
    MENTION,
    encloses_in_dashes,
    ends_line,
    first_mention,
    joint_after,
    joint_before,
    line_label,
    mention_begun,
    number_after,
    number_before,
)
from mlx_loopai.text.policy import Policy
from mlx_loopai.text.run_patterns import (
    ASCII_RUN,
    EMPHASIS,
    GLOSS,
    GLOSS_TO_COME,
    HANGUL,
    HANGUL_OR_TICK,
    LONG_RUN_END,
    LOOKAHEAD,
    MARKS_AND_CLOSERS,
    MAX_LOOKAHEAD_CHARS,
    OPEN_ANGLE,
    RUN,
    quiet_pattern,
)
from mlx_loopai.text.scanner import MAX_LEFT_CHARS, Scanner
from mlx_loopai.text.seams import CODE_END, SEAM, tidied
from mlx_loopai.text.surroundings import (
    Run,
    closes_inside,
    continues,
    enclosing,
    ends_there,
    is_bound,
    is_enclosed,
    is_paired,
    is_term,
    opens_inside,
)
from mlx_loopai.text.units import holds_han, is_other_script, judge

# A longer run without any Hangul is not part of a Korean sentence.
_MAX_RUN_CHARS = 4000
_BEFORE_CODE = frozenset(("", "@", "#"))
_ABOVE = frozenset(("", "\n"))
_INDENT = frozenset(" \t\r@#" + SEAM)
_BEFORE_LINE = _INDENT | {"\n"}
_CODE_SIGNS = re.compile(r"[(=\[{;<\"'/@#]")
_INVERTED = "¿¡"
# Of a face: `:)`.
_EYES = (":", ";")
_ONLY_BRACKETS = re.compile(r"[ \t]{0,80}+([{}()\[\];,]{0,80}+)[ \t\r]{0,80}+")
_TERMINAL = re.compile(r"[.!?…]*")
_OTHER = r"[[\p{L}--[\p{Latin}\p{Hangul}\p{Common}\p{Inherited}]]\p{Han}]"
_OTHER_WORD = rf"{_OTHER}[{_OTHER}\p{{M}}0-9ー゛゜]*+"
_OTHER_SCRIPTS = regex.compile(rf"{_OTHER_WORD}(?:[ 、。，；：！？・]++{_OTHER_WORD})*+[、。，；：！？]*+", regex.V1)

_quiet = lru_cache(quiet_pattern)


class Runs(Scanner):
    """Stage that drops foreign runs and lines of code; holds back one run with a few characters after it.

    Text between backticks on a line stays as it is.
    """

    def __init__(self, removed: Counter[str], policy: Policy) -> None:
        super().__init__(removed)
        self._policy = policy
        self._keeps_glosses = policy.han != "drop"
        self._quiet = _quiet(self._keeps_glosses)
        self._judged = judge(policy)
        self._in_code = self._in_long_run = self._after_code_line = False

    def feed(self, text: str) -> str:
        """The text that no later input can change, without what this stage removes."""
        # Letters alone cannot end a run, and need not be examined one by one.
        if self._held and len(self._held) < _MAX_RUN_CHARS and text.isascii() and text.isalpha():
            self._held += text
            return ""
        return super().feed(text)

    def _step(self) -> bool:
        """Take one step at `_at`; False when the text there must wait for more."""
        buffer = self._buffer
        if self._in_code or self._in_long_run:
            found = (CODE_END if self._in_code else LONG_RUN_END).search(buffer, self._at)
            if self._in_long_run:
                self._done = self._at = found.start() if found else len(buffer)
            else:
                self._at = found.end() if found else len(buffer)
            if found:
                self._in_code = self._in_long_run = False
            return True
        if self._after_code_line:
            return self._drop_brackets()
        self._at = at = self._quiet.match(buffer, self._at).end()  # type: ignore[union-attr]
        if at == len(buffer):
            if not self._final:
                self._wait_at(at)
            return False
        if buffer[at] == "`":
            self._in_code = True
            self._at += 1
            return True
        return self._gloss() if buffer[at] in "([（〔" else self._look_at_run()

    def _wait_at(self, place: int) -> None:
        """Hold back what begins at `place`, with what may belong to it."""
        buffer, done = self._buffer, self._done
        mention = mention_begun(buffer, place, done)
        place = mention if mention < place else place - len(self._leading(place))
        place = joint_before(buffer, number_before(buffer, place, done), done)
        place = line_label(buffer, place, done, self._left[-1:], whole=False)
        self._at = place - (place > done and buffer[place - 1] == " ")

    def _gloss(self) -> bool:
        """An opening bracket after Hangul: what it encloses stays."""
        gloss = GLOSS.match(self._buffer, self._at) if self._keeps_glosses else None
        if not gloss and self._keeps_glosses and not self._final and GLOSS_TO_COME.match(self._buffer, self._at):
            return False
        self._at = gloss.end() if gloss else self._at + 1
        return True

    def _look_at_run(self) -> bool:
        """Decide about a foreign letter, or a sign that occurs in foreign text only; False to wait for more."""
        buffer, start = self._buffer, self._at
        if self._may_begin_line(start) and (buffer[start].isascii() or self._policy.latin == "keep"):
            is_code = self._code_line(start)
            if is_code is None:
                self._wait_at(start)
                return False
            if is_code:
                return True
        end = self._run_end(start)
        if end is None:
            self._wait_at(start)
            return False
        if end == start:
            self._at += 1
            if self._at == len(buffer) and not self._final:
                self._wait_at(self._at)
                return False
            return True
        if end - start > _MAX_RUN_CHARS:
            self._drop(start, start, "foreign")
            self._in_long_run = True
            return True
        # The lookahead reaches the end of the text only if little follows.
        near_end = not self._final and len(buffer) - end <= MAX_LOOKAHEAD_CHARS
        if near_end and LOOKAHEAD.match(buffer, end).end() == len(buffer):
            self._wait_at(start)
            return False
        self._decide(start, end)
        return True

    def _may_begin_line(self, start: int) -> bool:
        """False for most places that do not begin a line; a word after another word and one space is found at once."""
        buffer, done = self._buffer, self._done
        if start == done:
            return True
        before = buffer[start - 1]
        return before == "\n" or (before in _INDENT and (start == done + 1 or buffer[start - 2] in _BEFORE_LINE))

    def _run_end(self, start: int) -> int | None:
        """Where the run that begins at `start` ends, with the Korean words that it mentions; None to wait for more."""
        buffer, end, mentions = self._buffer, _end_of_words(self._buffer, start), 0
        begun = GOES_ON.match(buffer, end)
        if not begun or end == start:
            return end
        if not (begun["quoted"] or " " in buffer[start:end]):
            return end
        if begun["number"]:
            return number_after(buffer, end)
        if continues(self._left_of(start - len(self._leading(start)))):
            return end
        while end - start < _MAX_RUN_CHARS:
            found = (LATER_MENTION if mentions else MENTION).match(buffer, end, partial=not self._final)
            if found and not self._final and (found.partial or found.end() + 2 > len(buffer)):
                return None
            if not found or not (mentions or begun["quoted"] or self._is_foreign(start, end)):
                break
            mentions += 1
            end = _end_of_words(buffer, found.end())
        return end

    def _is_foreign(self, start: int, end: int) -> bool:
        return bool(self._judged(self._buffer[start:end], ""))

    def _code_line(self, start: int) -> bool | None:
        """Drop the line that begins at `start` if it is one of a program: whether it was; None to wait for its end."""
        buffer, limit = self._buffer, start + MAX_CODE_LINE_CHARS + 1
        before = start
        while before > self._done and buffer[before - 1] in _INDENT:
            before -= 1
        if before > self._done and buffer[before - 1] != "\n":
            return False
        left = self._left_of(start)
        line_start = left.rfind("\n") + 1
        indent = left[line_start:].strip(" \t\r" + SEAM)
        if indent not in _BEFORE_CODE or not left.endswith(indent) or (len(left) == MAX_LEFT_CHARS and not line_start):
            return False
        begin = start - len(indent)
        line_end = buffer.find("\n", start, limit)
        end = line_end if line_end >= 0 else min(len(buffer), limit)
        stop = HANGUL_OR_TICK.search(buffer, start, end)
        if stop and (stop.group() == "`" or not _CODE_SIGNS.search(buffer, begin, stop.start())):
            return False
        if end == limit:
            return False
        if line_end < 0 and not self._final:
            return None
        line = buffer[begin:end]
        if self._policy.latin == "keep" and not line.isascii():
            line = _OTHER_SCRIPTS.sub(lambda one: SEAM if is_other_script(one[0], self._policy) else one[0], line)
            line = tidied(line)
        # A removed line of code above this one has left only its seam.
        below_code = left[line_start - 2 : line_start - 1] == SEAM and left[line_start - 3 : line_start - 2] in _ABOVE
        if "`" in line or not is_code(line, below_code):
            return False
        self._drop(begin, end, "code")
        self._after_code_line = True
        return True

    def _drop_brackets(self) -> bool:
        """After a line of code, drop lines of brackets alone, which end its blocks; False to wait for a line's end."""
        buffer, at = self._buffer, self._at
        line = _ONLY_BRACKETS.match(buffer, at + 1)
        assert line
        at_end = line.end() == len(buffer)
        if at_end and not self._final:
            return False
        self._after_code_line = bool(line.group(1)) and (at_end or buffer[line.end()] == "\n")
        if self._after_code_line:
            self._drop(at + 1, line.end(), "code")
        return True

    def _decide(self, start: int, end: int) -> None:
        """Keep or drop the sentences of a run, as the module describes."""
        buffer, policy = self._buffer, self._policy
        text = buffer[start:end]
        around = MARKS_AND_CLOSERS.match(buffer, end)
        assert around
        sentences = self._judged(text, around["mark"])
        if not sentences:
            self._at = end
            return
        lead = self._leading(start)
        left = self._left_of(start - len(lead))
        seen = LOOKAHEAD.match(buffer, end).end()
        run = Run(
            start, end, lead=lead, left=left, mark=around["mark"], close=around["close"], after=around.end(), seen=seen
        )
        may_bind = policy.han != "drop" or not holds_han(text)
        tail = sentences[-1][0]
        bound = may_bind and is_bound(buffer, run, tail)
        kept = may_bind and (is_enclosed(buffer, run, tail) or is_term(run, tail) or is_paired(buffer, run, tail))
        kept = kept or OPEN_ANGLE.search(left + lead + text) is not None
        if kept or not any(foreign and not (bound and unit is tail) for unit, foreign in sentences):
            self._at = end
        elif policy.latin == "keep":
            self._drop_other_scripts(run)
        else:
            (_, head_is_foreign), *others = sentences
            head = others and not head_is_foreign and continues(left)
            rest = start + others[0][0].start if head else start
            # A bound sentence is looked at again, as a run of its own.
            self._drop_run(run, rest, start + tail.start if bound else end)

    def _drop_other_scripts(self, run: Run) -> None:
        """Drop the words in other scripts of a run whose Latin words stay."""
        for found in _OTHER_SCRIPTS.finditer(self._buffer, run.start, run.end):
            if is_other_script(found.group(), self._policy):
                self._drop(found.start(), found.end(), "foreign")
        self._at = run.end

    def _drop_run(self, run: Run, start: int, end: int) -> None:
        """Drop a run from `start` to `end`, with what encloses it, and with its punctuation if `end` is its end."""
        buffer = self._buffer
        if end < run.end:
            self._drop(start, end, "foreign")
            return
        lead, close, end = run.lead if start == run.start else "", run.close, run.end + len(run.mark)
        n_pairs = 0
        if close and lead:
            n_pairs = enclosing(lead, close)
            start, end = start - n_pairs, end + n_pairs
            lead, close = lead[: len(lead) - n_pairs], close[n_pairs:]
        if lead and lead[-1] in EMPHASIS and closes_inside(lead[-1], buffer[start:end]):
            start, lead = start - len(lead) + len(lead.rstrip(EMPHASIS)), lead.rstrip(EMPHASIS)
        while lead and (lead[-1] in _INVERTED or closes_inside(lead[-1], buffer[start:end])):
            start, lead = start - 1, lead[:-1]
        while close and opens_inside(close[0], buffer[start:end]):
            end, close = end + 1, close[1:]
        if close and not lead and run.mark[-1:] in _EYES:
            end += 1
        if end > run.end + len(run.mark) and not ends_there(self._left_of(start)):
            end = MARKS_AND_CLOSERS.match(buffer, end).end("mark")  # type: ignore[union-attr]
        if run.left[-1:] in ("", "\n"):
            end = joint_after(buffer, end)
        before, start = start, self._start_with_edges(start, end)
        # The mark may end the Korean sentence around the run; then it stays.
        mark = _TERMINAL.match(run.mark)
        if mark and not run.close and before == run.start and ends_there(self._left_of(start)):
            end = run.end + len(run.mark) - len(mark.group())
        if lead != run.lead and start > self._done and buffer[start - 1] == " " and attached(buffer, end):
            start -= 1
        # 은화(銀貨)가: the particle is that of the word before the brackets.
        touches = HANGUL.match(run.left[-1:]) and HANGUL.match(buffer, end) and not (n_pairs and attached(buffer, end))
        self._drop(start, end, "foreign")
        if touches:
            self._out.append(" ")
            self._left += " "

    def _start_with_edges(self, start: int, end: int) -> int:
        """Where the text to remove begins: at the line's label, the joint before the run, or its first mention."""
        buffer, done = self._buffer, self._done
        mention = first_mention(buffer, start, done)
        if mention < start and not continues(self._left_of(mention)):
            start = mention
        number = number_before(buffer, start, done)
        if number < start and not continues(self._left_of(number)):
            start = number
        joint = joint_before(buffer, start, done)
        if not ends_line(buffer, end):
            return joint if joint < start and encloses_in_dashes(buffer, joint, start, end) else start
        return joint if joint < start else line_label(buffer, start, done, self._left[-1:])


def _end_of_words(buffer: str, start: int) -> int:
    """Where the foreign words that begin at `start` end; `start` itself when none stands there."""
    run = ASCII_RUN.match(buffer, start)
    if run and not has_address(buffer[start : run.end() + 3]):
        return run.end()
    other = RUN.match(buffer, start)
    return other.end() if other else start
