"""The options of rewards: how much each thing counts that a program checks in an answer."""

from __future__ import annotations

from pydantic import Field, model_validator

from mlx_loopai.config.table import Options
from mlx_loopai.language import tr


class RewardOptions(Options):
    """The section `preference.reward`, read by the objective grpo. 0: not checked.

    An answer's reward is the weighted mean of what is checked in it, from 0 to 1.
    """

    loop: float = Field(1.0, ge=0, description="weight of an answer that does not repeat itself over and over")
    whole: float = Field(1.0, ge=0, description="weight of an answer without broken characters")
    purity: float = Field(1.0, ge=0, description="weight of the share of Hangul among letters, for Korean prompts")
    length: float = Field(1.0, ge=0, description="weight of a length in the range that is asked for")
    end: float = Field(1.0, ge=0, description="weight of an answer that ends by itself")
    genre: float = Field(
        1.0, ge=0, description="weight of words of the genre that a prompt names: half of all genre words are enough"
    )
    words: float = Field(1.0, ge=0, description="weight of the share of words asked for that occur")
    format: float = Field(1.0, ge=0, description="weight of the form asked for: JSON or a list, and how many items")
    variety: float = Field(0.0, ge=0, description="weight of the share of passages of 8 characters that are new")

    @model_validator(mode="after")
    def _something_is_checked(self) -> RewardOptions:
        if not any(getattr(self, name) for name in ("loop", "whole", "length", "end", "variety")):
            # The others are checked in some answers only.
            raise ValueError(tr("loop, whole, length, end and variety are all 0; give one of them a weight"))
        return self
