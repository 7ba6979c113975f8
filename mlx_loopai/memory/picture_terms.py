"""Memory that pictures need in a run: their features in a step, the projector that is trained, and the encoder.

Pure. Counted from sizes; tests/unit/memory/test_picture_terms.py compares the counts with measured runs.
"""

from __future__ import annotations

from dataclasses import dataclass

# Float32 copies of the features in a step: as they are, normed, and normed and scaled for the first layer's gradient.
_KEPT_FEATURES = 3
# Of the projector's layers per feature: what GELU reads and gives, the output, and their gradients.
_KEPT_OUTPUTS = 6


@dataclass(frozen=True)
class PictureSizes:
    """Pictures among a run's rows. row_features: of the row that has most; all_features: of all rows together.

    width: numbers of a feature as the encoder gives it. layers: blocks after which a picture adds to the states.
    projector: parameters of a projector that is trained, 0 for none. encoder: parameters of the encoder. picture_bytes:
    what one picture needs in the encoder.
    """

    row_features: int
    all_features: int
    width: int
    layers: int = 0
    projector: int = 0
    encoder: int = 0
    picture_bytes: int = 0

    def batch_bytes(self, rows: int, hidden: int, tokens: int) -> int:
        """Bytes in a micro-batch of `rows` rows and `tokens` padded tokens, for a text model of width `hidden`."""
        features = rows * self.row_features
        given = (_KEPT_FEATURES if self.projector else 1) * self.width + self.layers * hidden
        made = _KEPT_OUTPUTS * hidden if self.projector else 0
        # The tokens' features, and their sum with the embeddings.
        return 4 * (features * (given + made) + 2 * tokens * hidden)

    @property
    def file_bytes(self) -> int:
        """Largest size of the memory-mapped file of features."""
        return 4 * self.all_features * self.width * (1 + self.layers)

    def encoder_bytes(self, item: int) -> int:
        """Bytes of the phase in which pictures are encoded: weights of `item` bytes a number, and one picture."""
        return item * self.encoder + self.picture_bytes
