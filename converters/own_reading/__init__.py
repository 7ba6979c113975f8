"""A second implementation of the models, in numpy, that reads config.json as transformers does."""

from converters.own_reading.models import has_positions, kinds, logits
from converters.own_reading.rotary import head_dim, rope_parameters, rotary, rotated

__all__ = ["has_positions", "head_dim", "kinds", "logits", "rope_parameters", "rotary", "rotated"]
