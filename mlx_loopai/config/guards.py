"""The options of every guard: one class a kind of `penalty`, and the rehearsal of `replay`.

The section `penalty` is flat, so that a recipe keeps its settings when only `penalty.kind` changes: it has the options
of all kinds, and a kind reads those of its own class.
"""

from __future__ import annotations

import difflib
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mlx_loopai.config.table import Options, Temperature
from mlx_loopai.language import tr

RehearsalObjective = Literal["answers", "kl", "both"]
ReplaySource = Literal["none", "records", "self", "free"]


class GuardOptions(Options):
    """The options of every kind. measured: whether the kind weighs the update by measurements on general rows."""

    measured: ClassVar[bool] = False

    kind: str = Field(
        "none",
        description="what holds general ability; kl: on training rows, stay near the base in all but the target token",
    )
    strength: float = Field(1.0, ge=0, description="factor of the penalty in the loss")

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in PENALTIES:
            near = difflib.get_close_matches(kind, PENALTIES, n=1)
            meant = tr("; did you mean {near}?", near=near[0]) if near else ""
            raise ValueError(tr("no such kind; known: {known}{meant}", known=", ".join(PENALTIES), meant=meant))
        return kind


class MeasuredOptions(GuardOptions):
    """The options of the kinds that are measured on general rows."""

    measured: ClassVar[bool] = True

    sequences: int = Field(128, ge=1, description="general sequences on which importance is measured")
    temperature: float = Field(1.0, gt=0, description="sharpness of the per-layer coefficients; large: all alike")


class NoGuardOptions(GuardOptions):
    """`none`: nothing but rehearsal holds general ability."""


class DivergenceOptions(GuardOptions):
    """`kl`: `strength` is the factor of KL to the base."""


class KroneckerOptions(MeasuredOptions):
    """`kronecker`: two vectors a layer."""


class FisherOptions(MeasuredOptions):
    """`fisher`: a number for every weight."""


class SketchOptions(MeasuredOptions):
    """`sketch`: kept activations of general rows."""

    activations: int = Field(256, ge=1, description="general activations kept per layer (kind: sketch)")
    opening_share: float = Field(
        0.0, ge=0, le=1, description="share of these activations taken where an answer begins (kind: sketch)"
    )


class PathOptions(Options):
    """The measuring run of the kinds hlora and hierarchical. None: as in the kind's own form."""

    epochs: int = Field(5, ge=1, description="passes over the general rows while importance is measured")
    learning_rate: float = Field(8e-4, gt=0, description="peak of its AdamW; linear to 0, no warm-up")
    true_gradient: bool | None = Field(None, description="integrate dL/dDW; else SGD's direction on the factors")
    damping: float | None = Field(None, gt=0, description="added to DW^2 under the path integral")
    relative: bool | None = Field(None, description="damping counts a layer's mean of DW^2")
    clamp_each_step: bool | None = Field(None, description="keep the running sum at or above 0 at every step")
    each_epoch: bool | None = Field(None, description="add one quotient to Omega per epoch, not one in all")
    softmax_scale: float | None = Field(None, ge=0, description="coefficients softmax(scale * norm), Omega as it is")
    anchor_at_base: bool | None = Field(None, description="pull to the base; else to where the measuring run ended")


class PathIntegralOptions(MeasuredOptions):
    """The options of the two kinds that measure by training on general rows."""

    path: PathOptions = PathOptions()


class HierarchicalOptions(PathIntegralOptions):
    """`hierarchical`: the corrected path integral."""


class HloraOptions(PathIntegralOptions):
    """`hlora`: the path integral as its authors released it."""


class HeldOptions(Options):
    """What holds an update beside any kind, or without one."""

    held_energy: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="keep the update off the largest singular directions of each weight, as many as hold this share of"
        " its energy, beside any kind; 0: off",
    )


class PenaltyOptions(HeldOptions, SketchOptions, HierarchicalOptions, HloraOptions, FisherOptions, KroneckerOptions):
    """The section `penalty`: the options of every kind, and what holds an update beside them."""

    def own(self) -> dict[str, Any]:
        """The options that the chosen kind reads, as JSON values."""
        return self.model_dump(mode="json", include=set(PENALTIES[self.kind].model_fields))


PENALTIES: dict[str, type[GuardOptions]] = {
    "none": NoGuardOptions,
    "kronecker": KroneckerOptions,
    "sketch": SketchOptions,
    "hierarchical": HierarchicalOptions,
    "fisher": FisherOptions,
    "hlora": HloraOptions,
    "kl": DivergenceOptions,
}


class ReplayOptions(Options):
    share: float = Field(0.0, ge=0, lt=1, description="share of rehearsal rows among a phase's rows")
    loss_share: float = Field(
        0.0, ge=0, lt=1, description="share of rehearsal in every step's loss; 0: every token counts the same"
    )
    objective: RehearsalObjective = Field(
        "answers", description="answers: learn them; kl: stay near the base's distribution on them; both"
    )
    kl_strength: float = Field(1.0, ge=0, description="factor of KL(base || adapted) (objective: kl, both)")
    source: ReplaySource = Field(
        "none",
        description="records: general rows as they are; self: the base answers them once; "
        "free: the base writes without a prompt",
    )
    max_prompts: int = Field(400, ge=1, description="how many general prompts the base answers (source: self)")
    answer_tokens: int = Field(64, ge=1, description="longest rehearsal answer in tokens (source: self)")
    temperature: Temperature = Field(0.0, description="sampling temperature of rehearsal answers; 0: greedy")

    @property
    def mixes_steps(self) -> bool:
        """Whether a step should hold rehearsal and training rows in their proportion."""
        return self.loss_share > 0 or (self.objective != "answers" and self.kl_strength > 0)

    @model_validator(mode="after")
    def _free_answers_differ(self) -> ReplayOptions:
        if self.source == "free" and self.temperature == 0:
            raise ValueError(
                tr("source: free writes the same text again and again at temperature 0; set temperature to about 1")
            )
        return self
