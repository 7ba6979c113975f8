"""Every key of config.json that decides what a model computes, and what each loader makes of it.

docs/conversion.md prints this table (`make docs`), and tests/unit/converters/test_configuration_keys.py compares its
last column with what is computed. A key that is not in the table is reported as unused. The columns were read from the
code of mlx-lm 0.32.2, transformers 5.24 and llama.cpp of October 2026.
"""

from mlx_loopai.models.configuration_keys.blocks import BLOCKS
from mlx_loopai.models.configuration_keys.key import KINDS, Key
from mlx_loopai.models.configuration_keys.mixers import MIXERS
from mlx_loopai.models.configuration_keys.rotary import ROTARY
from mlx_loopai.models.configuration_keys.windows import WINDOWS

__all__ = ["KEYS", "KINDS", "Key"]

KEYS = (*BLOCKS, *ROTARY, *WINDOWS, *MIXERS)
