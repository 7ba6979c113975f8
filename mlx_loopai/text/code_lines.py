"""Decides whether a line outside any code fence is a line of a program."""

from __future__ import annotations

import keyword
import re

MAX_CODE_LINE_CHARS = 400

_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*+"|\'(?:[^\'\\\n]|\\.)*+\'')
_COMMENT = re.compile(r"(?:^|\s)(?:#(?!include|define|pragma|!)|//|--\s).*|/\*.*?\*/")
_HANGUL = re.compile(r"[가-힣ㄱ-ㅎㅏ-ㅣ]")
_NAME = r"[A-Za-z_$][\w$]*+(?:(?:\.|::|->)[A-Za-z_$][\w$]*+)*+"
_SIGNS = re.compile(
    rf"""
      ^(?:[a-z_$]|[\w$]+[.:_])[\w$.:]*+!?\(.*\)\s*[;:{{]?$            # a call: print(x)
    | ^(?:[A-Za-z_]\w*+[\s*&]+)+{_NAME}\s*\(.*\)\s*(?:[:{{;]|->|=>)    # a definition: def f(): int main() {{
    | ^(?:(?:const|let|var|val|auto|int|char|float|double|bool|string)\s+)?(?:mut\s+)?
      [A-Za-z_$][\w$]++(?:\.\w+|\[[^\]]*\])*(?:\s*:\s*[\w<>\[\], ]+)?
      \s*(?:[-+*/|&%]|:)?=(?!=)\s*\S                                 # an assignment: total = 0
    | ^[A-Za-z_$]\w*+\s*[-+*/|&]=\s*\S                                # x += 1
    | ^[A-Za-z_]\s*=\s*[A-Za-z_]\w*+(?:\.\w++)+\(                      # x = a.call(
    | [\w)\]"'}}]\s*;\s*\}}?\s*$ | [)\w>]\s*\{{\s*$                   # a statement, a block's beginning
    | \)\s*\{{.*\}}\s*;?$                                             # a block in one line
    | ==|!=|&&|\|\||\w::\w|=>|\+\+
    | ^from\ [\w.]+\ import\b | ^@\w | ^\#include\b | ^\#!\s*/
    | ^(?:if|elif|while|for|with|except|class|def|case|switch)\b.*:$
    """,
    re.VERBOSE,
)
# `x = 5` may be mathematics; right below a line of code it is none.
_BELOW_CODE = re.compile(r"^[A-Za-z_$]\w*+(?:\[[^\]]*\])?\s*=(?!=)\s*\S")
_FIRST_WORD = re.compile(r"[a-z]+(?=\s|:?$)")
_REST_OF_STATEMENT = re.compile(r":?|\s+[\w.*,(){}\[\]:'\"+\-/ ]*")
# Without keywords that may also begin an English phrase: such a phrase is judged as prose.
_STATEMENTS = frozenset(keyword.kwlist) - {"for", "from", "in", "is", "not", "and", "or", "as", "with", "if", "while"}
_WHOLE_STATEMENTS = frozenset(("pass", "break", "continue", "return", "raise"))


def is_code(line: str, below_code: bool = False) -> bool:
    """True for a line of a program: it has the shape of a statement, and Korean only in strings and comments.

    below_code: the line above it was one.
    """
    bare = _COMMENT.sub("", _STRING.sub('""', line)).strip()
    if not bare or _HANGUL.search(bare):
        return False
    if _SIGNS.search(bare) or (below_code and _BELOW_CODE.match(bare)):
        return True
    first = _FIRST_WORD.match(bare)
    if not first or first.group() not in _STATEMENTS:
        return False
    # A statement without signs, such as `import os` or `return x`, is short; a longer one is a sentence.
    rest = bare[first.end() :]
    if not rest:
        return first.group() in _WHOLE_STATEMENTS
    return _REST_OF_STATEMENT.fullmatch(rest) is not None and len(rest.split()) <= 3
