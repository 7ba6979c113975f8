"""`/v1/embeddings`: parses the request, and puts the vectors into the shape of OpenAI's API."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlx_loopai.language import tr
from mlx_loopai.models.embedder import Embedder, Vectors
from mlx_loopai.serving.request_body import invalid, json_object
from mlx_loopai.serving.shapes import ApiError

_MOST_TEXTS = 256
# Texts embedded between two steps of the answers that are being written.
_SLAB = 8


class _Body(BaseModel):
    model_config = ConfigDict(strict=True)

    input: str | list[str]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)


@dataclass(frozen=True)
class AskedVectors:
    """A request for the vectors of texts. as_base64: encode them as base64 of little-endian float32."""

    texts: tuple[str, ...]
    as_base64: bool

    @property
    def slabs(self) -> Iterator[tuple[str, ...]]:
        return (self.texts[start : start + _SLAB] for start in range(0, len(self.texts), _SLAB))


def parse_vectors(body: bytes, embedder: Embedder, name: str) -> AskedVectors:
    """The request that a body holds; `name`: what the embedder is called. Raises: ApiError 400 or 404."""
    try:
        read = _Body.model_validate(json_object(body))
    except ValidationError as error:
        raise invalid(error) from None
    if read.model not in (None, name):
        raise ApiError(
            404,
            tr("model {model!r}: texts are embedded by {name}", model=read.model, name=name),
            "model",
            "model_not_found",
        )
    if read.dimensions not in (None, embedder.dims):
        raise ApiError(
            400, tr("dimensions: {name} has {dims}; leave it out", name=name, dims=embedder.dims), "dimensions"
        )
    texts = (read.input,) if isinstance(read.input, str) else tuple(read.input)
    if not 0 < len(texts) <= _MOST_TEXTS or not all(text.strip() for text in texts):
        raise ApiError(400, tr("input: give 1 to {most} texts, none of them empty", most=_MOST_TEXTS), "input")
    return AskedVectors(texts, read.encoding_format == "base64")


def vectors_document(asked: AskedVectors, vectors: Sequence[Vectors], name: str, n_tokens: int) -> dict[str, Any]:
    """The response with the vectors (D,) of all texts, in their order."""
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector, asked.as_base64)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return {"object": "list", "data": data, "model": name, "usage": usage}


def _written(vector: Vectors, as_base64: bool) -> str | list[float]:
    return base64.b64encode(vector.astype(np.dtype("<f4")).tobytes()).decode() if as_base64 else vector.tolist()
