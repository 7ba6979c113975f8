"""What pictures need in a run: their features in the steps, the projector that learns, and the encoder before them.

Pure. Counted from sizes; held against measured runs in tests/unit/memory/test_picture_terms.py.
"""

from __future__ import annotations

from dataclasses import dataclass

# Of a step, in float32: features, their normed copy and that one's scaled form, which the first layer's gradient needs.
_KEPT_FEATURES = 3
# Of the projector's layers per feature: what GELU reads and gives, the output, and their gradients.
_KEPT_OUTPUTS = 6


@dataclass(frozen=True)
class PictureSizes:
    """Pictures among a run's rows. row_features: of the row that has most; all_features: of all rows together.

    width: numbers of a feature as the encoder gives it. layers: blocks behind which a picture adds to the states.
    projector: numbers of a projector that learns, 0 for none. encoder: numbers of the encoder's weights; picture_bytes:
    what one picture needs in it.
    """

    row_features: int
    all_features: int
    width: int
    layers: int = 0
    projector: int = 0
    encoder: int = 0
    picture_bytes: int = 0

    def batch_bytes(self, rows: int, hidden: int, tokens: int) -> int:
        """Of a micro-batch of `rows` rows and `tokens` padded tokens, in a text model of that width."""
        features = rows * self.row_features
        given = (_KEPT_FEATURES if self.projector else 1) * self.width + self.layers * hidden
        made = _KEPT_OUTPUTS * hidden if self.projector else 0
        # The tokens' features, and their sum with the embeddings.
        return 4 * (features * (given + made) + 2 * tokens * hidden)

    @property
    def file_bytes(self) -> int:
        """At most of the mapped file of features."""
        return 4 * self.all_features * self.width * (1 + self.layers)

    def encoder_bytes(self, item: int) -> int:
        """Of the phase in which pictures are read: the encoder's weights of `item` bytes a number, and one picture."""
        return item * self.encoder + self.picture_bytes
