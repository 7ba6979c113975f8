"""The options of preference training: which loss, and its parameters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from mlx_loopai.config.reward import RewardOptions
from mlx_loopai.config.table import Options, Temperature
from mlx_loopai.language import tr

PreferenceObjective = Literal["none", "dpo", "orpo", "simpo", "kto", "apo", "tlpo", "grpo"]
PreferenceVariant = Literal["sigmoid", "norm", "ipo"]
_USUAL_BETA = {"simpo": 2.0}
_WITHOUT_REFERENCE = ("orpo", "simpo", "grpo")
_FOR_SINGLE_ANSWERS = ("kto", "apo")
_FOR_POSITIONS = ("tlpo",)
_FOR_PROMPTS = ("grpo",)


class PreferenceOptions(Options):
    """The section `preference`. An objective ignores options that are for other objectives."""

    objective: PreferenceObjective = Field(
        "none",
        description="how pairs or labelled answers are learnt: dpo, orpo and simpo from pairs; kto and apo from labels,"
        " or from the answers of pairs; tlpo from positions (`feedback positions`); grpo (experimental) from prompts,"
        " which the model answers while it trains; none: the data are ordinary rows",
    )
    variant: PreferenceVariant = Field(
        "sigmoid", description="sigmoid; norm: log-probabilities per token; ipo: a squared distance (objective: dpo)"
    )
    beta: float | None = Field(
        None, gt=0, description="sharpness of the loss; for orpo the factor of its odds; empty: 0.1, and 2 for simpo"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of pairs that may be judged the wrong way (objective: dpo, simpo)"
    )
    sft_weight: float = Field(
        0.2,
        ge=0,
        description="factor of the chosen answer's own loss, nats per token, so that it does not become less likely;"
        " orpo has its own, tlpo and grpo none",
    )
    gamma: float = Field(0.5, ge=0, description="margin by which the chosen answer should win (objective: simpo)")
    desirable: float = Field(1.0, gt=0, description="weight of good answers (objective: kto)")
    undesirable: float = Field(1.0, gt=0, description="weight of bad answers (objective: kto)")
    ratio_clip: float = Field(
        0.2,
        gt=0,
        description="share by which a token may become likelier, or less likely, before it is pushed no further"
        " (objective: tlpo; grpo from the second of its `updates` on)",
    )
    kl_weight: float = Field(
        0.04, ge=0, description="factor of KL(base || adapted) at the position, nats (objective: tlpo)"
    )
    group: int = Field(
        4, ge=2, le=64, description="answers to each prompt, which are compared with one another (objective: grpo)"
    )
    temperature: Temperature = Field(0.8, gt=0, description="how freely these answers are drawn (objective: grpo)")
    answer_tokens: int = Field(160, ge=1, description="longest of these answers, in tokens (objective: grpo)")
    updates: int = Field(
        1, ge=1, le=16, description="updates of the model on the answers of a step, before new ones (objective: grpo)"
    )
    length: tuple[int, int] = Field(
        (20, 2000),
        description="fewest and most characters of a good answer, where a prompt does not say (objective: grpo)",
    )
    reward: RewardOptions = RewardOptions()

    @field_validator("length")
    @classmethod
    def _fewest_first(cls, length: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= length[0] <= length[1]:
            raise ValueError(tr("expected fewest and most characters, such as [60, 240]"))
        return length

    @model_validator(mode="after")
    def _variant_is_of_the_objective(self) -> PreferenceOptions:
        if self.variant != "sigmoid" and self.objective not in ("none", "dpo"):
            raise ValueError(
                tr(
                    "variant {variant} is one of dpo, not of {objective}; leave it out",
                    variant=self.variant,
                    objective=self.objective,
                )
            )
        return self

    @property
    def sharpness(self) -> float:
        """`beta`, or the usual value for the objective."""
        return self.beta if self.beta is not None else _USUAL_BETA.get(self.objective, 0.1)

    @property
    def is_on(self) -> bool:
        """Whether judged answers are learnt."""
        return self.objective != "none"

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares with the base's log-probabilities."""
        return self.is_on and self.objective not in _WITHOUT_REFERENCE

    @property
    def takes_positions(self) -> bool:
        """Whether positions in answers are learnt, and not whole answers."""
        return self.objective in _FOR_POSITIONS

    @property
    def takes_labels(self) -> bool:
        """Whether single answers can be learnt, and not only pairs."""
        return self.objective in _FOR_SINGLE_ANSWERS

    @property
    def takes_prompts(self) -> bool:
        """Whether the model's own answers to prompts are learnt, and not answers that are given."""
        return self.objective in _FOR_PROMPTS
