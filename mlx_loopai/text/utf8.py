"""Builds an automaton over UTF-8 bytes from classes of code points, and runs it over the tokens of a vocabulary.

Source: the byte-level automata of RE2 and of constrained decoding (Willard & Louf 2023, arXiv 2307.09702). Ours builds
the trie of encodings level by level with numpy and merges equal rows, so that no regular expression is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

DEAD = -1
_CONTINUATION = 0x80
_BLOCK = 64  # code points that differ in the last continuation byte only


@dataclass(frozen=True)
class ByteAutomaton:
    """moves (S, 256): the state after one more byte, DEAD where there is none. The first `n_boundaries` states lie
    between two characters; state 0 is the start.
    """

    moves: npt.NDArray[np.int16]
    n_boundaries: int

    def recovering(self) -> npt.NDArray[np.int16]:
        """The same moves without DEAD ends: a byte that does not fit is read again from the start, or skipped."""
        restart = np.maximum(self.moves[0], 0)
        return np.where(self.moves == DEAD, restart[None], self.moves)


@dataclass(frozen=True)
class TokenBytes:
    """The bytes of V tokens, one after another: token v is data[start[v] : start[v] + length[v]]."""

    data: npt.NDArray[np.uint8]
    length: npt.NDArray[np.int64]

    @classmethod
    def of(cls, tokens: list[bytes]) -> TokenBytes:
        return cls(np.frombuffer(b"".join(tokens), dtype=np.uint8), np.array([len(one) for one in tokens], np.int64))

    @property
    def start(self) -> npt.NDArray[np.int64]:
        return np.cumsum(self.length) - self.length


def byte_automaton(classes: npt.NDArray[np.int8], contexts: npt.NDArray[np.int16]) -> ByteAutomaton:
    """The automaton of texts whose characters `contexts` allows one after another.

    classes: the class of each code point (0x110000); contexts: (contexts, classes) -> context, or DEAD.
    """
    trie = _encodings(classes)
    # Boundaries come first, one a context; below them each context has its own copy of the trie, equal states merged.
    inner: list[npt.NDArray[np.int16]] = []
    known: dict[bytes, int] = {}
    boundaries = []
    for after in contexts:
        names = np.full(len(trie), DEAD, dtype=np.int16)
        for index, node in enumerate(trie):
            row = np.where(node < 0, after[-np.minimum(node, 0)], names[np.maximum(node, 0)]).astype(np.int16)
            if 0 < index < len(trie) - 1 and (row != DEAD).any():
                names[index] = known.setdefault(row.tobytes(), len(contexts) + len(inner))
                if names[index] == len(contexts) + len(inner):
                    inner.append(row)
        boundaries.append(row)  # of the last node, the root
    return ByteAutomaton(np.stack([*boundaries, *inner]), len(contexts))


def token_moves(automaton: ByteAutomaton, tokens: TokenBytes) -> tuple[npt.NDArray[np.bool_], npt.NDArray[Any]]:
    """(which tokens each state allows (S, V), the state after a token (S, V), one byte each where that is enough).

    The second array lies in memory token by token, as generation looks it up. A prompt may hold a token that is not
    allowed; the state after it is the one that its last bytes lead to from the start. Tokens without bytes are allowed
    nowhere and lead to the start.
    """
    n_states, n_tokens = len(automaton.moves), len(tokens.length)
    filled = np.flatnonzero(tokens.length)
    start = tokens.start
    first = np.zeros(n_tokens, dtype=np.uint8)
    first[filled] = tokens.data[start[filled]]
    by_first = filled[np.argsort(first[filled], kind="stable")]
    bounds = np.searchsorted(first[by_first], np.arange(257))
    failing = np.zeros(n_tokens, dtype=np.uint8 if n_states <= 256 else np.uint16)
    failing[filled] = _run(automaton.recovering(), 0, filled, start, tokens)
    allowed = np.zeros((n_states, n_tokens), dtype=np.bool_)
    after = np.repeat(failing[:, None], n_states, axis=1)
    for state, moves in enumerate(automaton.moves):
        # In the middle of a character only the few tokens that begin with a continuation byte are looked at.
        leads = np.flatnonzero(moves != DEAD)
        candidates = np.concatenate([by_first[bounds[byte] : bounds[byte + 1]] for byte in leads])
        ends = _run(automaton.moves, state, candidates, start, tokens)
        fits = ends != DEAD
        allowed[state, candidates[fits]] = True
        after[candidates[fits], state] = ends[fits]
    return allowed, after.T


def _run(
    moves: npt.NDArray[np.int16],
    state: int,
    candidates: npt.NDArray[np.int64],
    start: npt.NDArray[np.int64],
    tokens: TokenBytes,
) -> npt.NDArray[np.int16]:
    """The state that each candidate token leads to from `state`."""
    ends = np.full(len(candidates), state, dtype=np.int16)
    alive = np.arange(len(candidates))
    first, length = start[candidates], tokens.length[candidates]
    step = 0
    while alive.size:
        after = moves[ends[alive], tokens.data[first[alive] + step]]
        ends[alive] = after
        step += 1
        alive = alive[(after != DEAD) & (length[alive] > step)]
    return ends


def _encodings(classes: npt.NDArray[np.int8]) -> list[npt.NDArray[np.int64]]:
    """The trie of the encodings of all code points with a class above 0, equal nodes merged.

    A node (256): 0 for no way on, n > 0 for node n, -c for a character of class c. Node 0 is empty, children come
    before their parents, and the root is the last.
    """
    by_code = np.zeros(0x200000, dtype=np.int64)
    by_code[: len(classes)] = -classes.astype(np.int64)
    nodes = [np.zeros(256, dtype=np.int64)]
    known: dict[bytes, int] = {nodes[0].tobytes(): 0}

    def merged(children: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Nodes for rows of 64 children (..., 64), those of the continuation bytes."""
        rows = children.reshape(-1, _BLOCK)
        ids = np.zeros(len(rows), dtype=np.int64)
        for index in np.flatnonzero(rows.any(axis=1)):
            node = np.zeros(256, dtype=np.int64)
            node[_CONTINUATION : _CONTINUATION + _BLOCK] = rows[index]
            ids[index] = known.setdefault(node.tobytes(), len(nodes))
            if ids[index] == len(nodes):
                nodes.append(node)
        return ids.reshape(children.shape[:-1])

    root = np.zeros(256, dtype=np.int64)
    root[:0x80] = by_code[:0x80]
    # Code points below each range's first are overlong there, and stay without a class.
    for first, last, lead, depth in ((0x80, 0x800, 0xC0, 1), (0x800, 0x10000, 0xE0, 2), (0x10000, 0x200000, 0xF0, 3)):
        children = by_code[:last].copy()
        children[:first] = 0
        children = children.reshape(-1, *[_BLOCK] * depth)
        for _ in range(depth):
            children = merged(children)
        root[lead : lead + len(children)] = children
    return [*nodes, root]


def any_utf8() -> ByteAutomaton:
    """The automaton of all valid UTF-8."""
    classes = np.ones(0x110000, dtype=np.int8)
    classes[0xD800:0xE000] = 0
    return byte_automaton(classes, np.array([[DEAD, 0]], dtype=np.int16))


def fence_moves() -> npt.NDArray[np.int16]:
    """Code fences as moves over bytes (8, 256): three backticks open one, the next three close it.

    States 0-2 are outside after that many backticks, 3 is the opening run, 4-6 inside, 7 the closing run.
    """
    moves = np.repeat(np.array([0, 0, 0, 4, 4, 4, 4, 0], dtype=np.int16)[:, None], 256, axis=1)
    moves[:, ord("`")] = [1, 2, 3, 3, 5, 6, 7, 7]
    return moves


def all_ends(moves: npt.NDArray[np.int16], tokens: TokenBytes) -> npt.NDArray[np.int16]:
    """The state after each token from each state (S, V), for moves without DEAD ends; no bytes, no move."""
    everything = np.arange(len(tokens.length))
    filled = everything[tokens.length > 0]
    ends = np.repeat(np.arange(len(moves), dtype=np.int16)[:, None], len(everything), axis=1)
    for state in range(len(moves)):
        ends[state, filled] = _run(moves, state, filled, tokens.start, tokens)
    return ends
