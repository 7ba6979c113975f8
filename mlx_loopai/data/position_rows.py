"""Encodes a position as a token row, and refuses one whose tokens have other names in the model's vocabulary."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mlx_loopai.data.positions import Position
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.micro_batch import CANDIDATES


def position_row(position: Position, whole: TokenRow, tokenizer: Any) -> TokenRow:
    """The prompt, the answer up to the position, and as the only target the best token there.

    whole: the row of `position.answer`, which begins with the prompt.

    Raises: InputError naming the row and a token that is another one to `tokenizer`.
    """
    begun, names = position.begun, tokenizer.convert_ids_to_tokens
    for one in begun.candidates:
        if names(one.token) != one.piece:
            raise InputError(
                tr(
                    "{origin}: token {token} is {piece!r} in this row and {name!r} in the model's vocabulary; make the "
                    "positions with the model that is trained (`feedback positions`)",
                    origin=position.origin,
                    token=one.token,
                    piece=one.piece,
                    name=names(one.token),
                )
            )
    known = all(names(token) is not None for token in begun.prefix_tokens)
    text = tokenizer.decode(list(begun.prefix_tokens)) if begun.prefix_tokens and known else ""
    if text != begun.prefix or not known:
        raise InputError(
            tr(
                "{origin}: prefix_tokens are {text!r} to this model, and the prefix is {prefix!r}; make the positions "
                "with the model that is trained (`feedback positions`)",
                origin=position.origin,
                text=text[:60],
                prefix=begun.prefix[:60],
            )
        )
    candidates = np.zeros(len(begun.candidates), CANDIDATES)
    candidates["token"] = [one.token for one in begun.candidates]
    candidates["score"] = [one.score for one in begun.candidates]
    ids = np.concatenate([whole.prompt, [*begun.prefix_tokens, begun.best.token]]).astype(np.int32)
    supervised = np.arange(len(ids)) == len(ids) - 1
    return replace(whole, ids=ids, supervised=supervised, candidates=candidates, begun=len(begun.prefix_tokens))
