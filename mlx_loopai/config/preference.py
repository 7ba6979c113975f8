"""The options of preference training: which loss, and its parameters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mlx_loopai.config.table import Options
from mlx_loopai.language import tr

PreferenceObjective = Literal["none", "dpo", "orpo", "simpo", "kto", "apo", "tlpo"]
PreferenceVariant = Literal["sigmoid", "norm", "ipo"]
_USUAL_BETA = {"simpo": 2.0}
_WITHOUT_REFERENCE = ("orpo", "simpo")
_FOR_SINGLE_ANSWERS = ("kto", "apo")
_FOR_POSITIONS = ("tlpo",)


class PreferenceOptions(Options):
    """The section `preference`. An objective ignores options that are for other objectives."""

    objective: PreferenceObjective = Field(
        "none",
        description="how pairs or labelled answers are learnt: dpo, orpo and simpo from pairs; kto and apo from labels,"
        " or from the answers of pairs; tlpo from positions (`feedback positions`); none: the data are ordinary rows",
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
        " orpo has its own, tlpo none",
    )
    gamma: float = Field(0.5, ge=0, description="margin by which the chosen answer should win (objective: simpo)")
    desirable: float = Field(1.0, gt=0, description="weight of good answers (objective: kto)")
    undesirable: float = Field(1.0, gt=0, description="weight of bad answers (objective: kto)")
    ratio_clip: float = Field(
        0.2,
        gt=0,
        description="share by which a token may become likelier, or less likely, before it is pushed no further"
        " (objective: tlpo)",
    )
    kl_weight: float = Field(
        0.04, ge=0, description="factor of KL(base || adapted) at the position, nats (objective: tlpo)"
    )

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
