"""The configuration of a training run: every option with its name, default, range and description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import yaml
from pydantic import Field, field_validator, model_validator

from mlx_loopai.config.guards import PENALTIES, PathIntegralOptions, PenaltyOptions, ReplayOptions
from mlx_loopai.config.learning import LoraOptions, TrainOptions
from mlx_loopai.config.preference import PreferenceOptions
from mlx_loopai.config.sources import SourceOptions, VisionOptions
from mlx_loopai.config.table import Options, PathText
from mlx_loopai.files import digest_name
from mlx_loopai.language import tr

# Options of `lora` that concern its factors only, so that full fine-tuning does not have them.
_OF_FACTORS = ("rslora", "dora", "dropout", "b_rate", "ranks", "start")


class SelectionOptions(Options):
    kind: Literal["none", "stm", "eaft"] = Field(
        "none", description="which training tokens count: stm: those the base finds likely; eaft: by the base's entropy"
    )
    perplexity: float = Field(
        2.5, gt=1, description="tokens with a higher perplexity under the base do not count (kind: stm)"
    )
    top_k: int = Field(20, ge=2, description="likeliest tokens whose entropy counts (kind: eaft)")


class MemoryOptions(Options):
    budget: str = Field("auto", description="bytes a run may use, such as 9GiB; auto: from this machine")
    checkpointing: bool | Literal["auto"] = Field("auto", description="recompute blocks in the backward pass")
    chunk_rows: int = Field(0, ge=0, description="rows of logits alive at once in the loss; 0: chosen by the plan")
    micro_tokens: int = Field(0, ge=0, description="tokens per micro-batch; 0: chosen by the plan")


class ForgettingOptions(Options):
    floor: float = Field(0.95, ge=0, le=1, description="retention (GR) below which the gate says no")
    gain_floor: float = Field(0.0, ge=0, description="gain (DG) below which the gate says no")
    budget: float = Field(
        0.02,
        ge=0,
        description="KL from the base, in nats per token, that a run may spend on general answers, and at most about"
        " twice that on one kind of them; the guards get the weight that keeps it. 0: they keep their configured"
        " strength",
    )
    final_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the budget that the result may spend; a run that went further is scaled back at its end",
    )
    questions: int = Field(
        20, ge=0, description="questions of each kind that a guarded run asks base and result at its end; 0: none"
    )
    monitor_every: int = Field(
        0, ge=0, description="read a few general rows every N optimizer steps; 0: as often as the budget needs"
    )
    kept_floor: float = Field(
        0.8,
        ge=0,
        le=1,
        description="least that may be left of the base's likelihood of general answers, "
        "exp(-KL(base || adapted)); not GR",
    )
    on_floor: Literal["warn", "stop", "rollback"] = Field(
        "warn",
        description="when a reading is below the floor: warn and continue, stop, or roll back to the last checkpoint "
        "above it",
    )


class PhaseOptions(Options):
    """A phase: which sources, how often, and what it changes of `train`, `penalty` and `replay`."""

    name: str = Field(min_length=1, description="shown in progress and events")
    mixture: dict[str, float] = Field(description="source name -> passes over it in this phase, such as 0.5 or 2")
    learning_rate: float | None = Field(None, gt=0, description="overrides train.learning_rate")
    penalty_strength: float | None = Field(None, ge=0, description="overrides penalty.strength")
    replay_share: float | None = Field(None, ge=0, lt=1, description="overrides replay.share")


@dataclass(frozen=True)
class PhaseSettings:
    """A phase with all its values; those that it does not override come from `train`, `penalty` and `replay`."""

    name: str
    mixture: dict[str, float]
    learning_rate: float
    penalty_strength: float
    replay_share: float


class RunConfig(Options):
    """Everything that decides what a training run does."""

    model: PathText = Field(
        "nano", description="nano (embedded), a folder, or a hub id such as Qwen/Qwen2.5-1.5B-Instruct"
    )
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", description="auto: fp32 on CPU, bf16 on Metal")
    system_prompt: str = Field(
        "", description="system prompt of training, rehearsal and generation; empty: the template's own"
    )
    sources: dict[str, SourceOptions] = Field(default_factory=dict, description="named data files")
    validation: PathText = Field("", description="held-out rows, scored before and after; empty: none")
    validation_share: float = Field(
        0.0, ge=0, le=0.5, description="share of the training rows to hold out instead, at most 64 rows"
    )
    general: PathText = Field(
        "", description="general rows for rehearsal and importance; empty: the embedded prompt set"
    )
    phases: tuple[PhaseOptions, ...] = Field((), description="trained in order; empty: one phase over every source")
    lora: LoraOptions = LoraOptions()
    train: TrainOptions = TrainOptions()
    penalty: PenaltyOptions = PenaltyOptions()
    replay: ReplayOptions = ReplayOptions()
    selection: SelectionOptions = SelectionOptions()
    preference: PreferenceOptions = PreferenceOptions()
    memory: MemoryOptions = MemoryOptions()
    forgetting: ForgettingOptions = ForgettingOptions()
    vision: VisionOptions = VisionOptions()

    @field_validator("phases")
    @classmethod
    def _unique_phases(cls, phases: tuple[PhaseOptions, ...]) -> tuple[PhaseOptions, ...]:
        names = [phase.name for phase in phases]
        if len(set(names)) != len(names):
            raise ValueError(tr("phase names must differ, got {names}", names=names))
        return phases

    @model_validator(mode="after")
    def _phases_name_sources(self) -> RunConfig:
        known = set(self.sources)
        wrong = sorted({name for phase in self.phases for name in phase.mixture} - known)
        if wrong:
            raise ValueError(
                tr(
                    "phases name sources {wrong} that `sources` does not define; defined: {known}",
                    wrong=wrong,
                    known=sorted(known),
                )
            )
        return self

    @model_validator(mode="after")
    def _options_fit_together(self) -> RunConfig:
        watched = [name for name in ("patience", "keep_best") if getattr(self.train, name)]
        if watched and self.preference.takes_prompts:
            raise ValueError(
                tr(
                    "train.{option} compares the loss of held-out answers, and preference.objective {objective} learns "
                    "from prompts without any; leave it out",
                    option=watched[0],
                    objective=self.preference.objective,
                )
            )
        if watched and not self.train.validate_every:
            raise ValueError(
                tr("train.{option} needs train.validate_every; set it to a number of steps", option=watched[0])
            )
        if self.train.validate_every and not (self.validation or self.validation_share):
            raise ValueError(
                tr("train.validate_every needs held-out rows; give `validation: FILE` or `validation_share`")
            )
        if self.lora.dora and self.measures_importance:
            raise ValueError(
                tr(
                    "penalty.kind {kind} measures the update of LoRA, and DoRA sets each row's length too; use kl, "
                    "or set lora.dora or the penalty off",
                    kind=self.penalty.kind,
                )
            )
        return self

    @model_validator(mode="after")
    def _method_has_its_options(self) -> RunConfig:
        if self.train.moments != "fp32" and self.train.optimizer not in ("adam", "adamw"):
            raise ValueError(
                tr(
                    "train.moments {moments} is for adam and adamw, not for {optimizer}; leave it out",
                    moments=self.train.moments,
                    optimizer=self.train.optimizer,
                )
            )
        if self.train.method == "lora":
            return self._with_ranks_of_its_own()
        usual = LoraOptions()
        factors = [name for name in _OF_FACTORS if getattr(self.lora, name) != getattr(usual, name)]
        if factors:
            raise ValueError(
                tr(
                    "train.method full has no low-rank factors, which lora.{option} is about; leave it out",
                    option=factors[0],
                )
            )
        if issubclass(PENALTIES[self.penalty.kind], PathIntegralOptions):
            raise ValueError(
                tr(
                    "penalty.kind {kind} measures by training an adapter, and train.method full has none; use kl, "
                    "kronecker, sketch or fisher",
                    kind=self.penalty.kind,
                )
            )
        if self.vision != VisionOptions():
            raise ValueError(
                tr("train.method full does not learn pictures, which `vision` is about; leave `vision` out")
            )
        return self

    def _with_ranks_of_its_own(self) -> RunConfig:
        if self.lora.ranks != "same" and issubclass(PENALTIES[self.penalty.kind], PathIntegralOptions):
            raise ValueError(
                tr(
                    "lora.ranks {ranks} depends on the run's rows, and what penalty.kind {kind} measures with that "
                    "adapter is shared by runs; use kl, kronecker, sketch or fisher",
                    ranks=self.lora.ranks,
                    kind=self.penalty.kind,
                )
            )
        return self

    @model_validator(mode="after")
    def _held_directions_fit_the_update(self) -> RunConfig:
        others = {"train.method full": self.trains_weights, "lora.dora": self.lora.dora, "lora.start": self.lora.start}
        wrong = [name for name, chosen in others.items() if chosen]
        if self.penalty.held_energy and wrong:
            raise ValueError(
                tr(
                    "penalty.held_energy holds low-rank updates W + s B A that begin at the base, and {option} is "
                    "another; leave one of the two out",
                    option=wrong[0],
                )
            )
        return self

    @model_validator(mode="after")
    def _start_fits_the_rest(self) -> RunConfig:
        if not self.lora.start:
            return self
        if self.measures_importance:
            raise ValueError(
                tr(
                    "penalty.kind {kind} measures around the base, and lora.start begins away from it; use kl, or none",
                    kind=self.penalty.kind,
                )
            )
        if self.preference.objective == "kto":
            raise ValueError(
                tr(
                    "preference.objective kto compares answers with the base in every step, and lora.start begins away "
                    "from it; use apo"
                )
            )
        return self

    @model_validator(mode="after")
    def _preferences_stand_alone(self) -> RunConfig:
        if not self.preference.is_on:
            return self
        objective = self.preference.objective
        if self.lora.dropout:
            raise ValueError(
                tr(
                    "preference.objective {objective} compares an answer's log-probability in two passes, and "
                    "lora.dropout {dropout:g} would drop other entries in each; set lora.dropout to 0",
                    objective=objective,
                    dropout=self.lora.dropout,
                )
            )
        if self.preference.takes_prompts and self.lora.ranks != "same":
            raise ValueError(
                tr(
                    "lora.ranks {ranks} measures gradients of the training rows, and the prompts of "
                    "preference.objective {objective} have no answers; set lora.ranks to same",
                    ranks=self.lora.ranks,
                    objective=objective,
                )
            )
        changed = [name for name in ("label_smoothing", "z_loss") if getattr(self.train, name)]
        if changed:
            raise ValueError(
                tr(
                    "train.{option} changes the loss of single tokens, and preference.objective {objective} compares "
                    "whole answers; set train.{option} to 0",
                    option=changed[0],
                    objective=objective,
                )
            )
        if self.selection.kind != "none":
            raise ValueError(
                tr(
                    "selection.kind {kind} leaves tokens out, and preference.objective {objective} compares whole "
                    "answers; set selection.kind to none",
                    kind=self.selection.kind,
                    objective=objective,
                )
            )
        return self

    @property
    def trained_phases(self) -> tuple[PhaseSettings, ...]:
        """The phases with every value; one over all sources where none is named."""
        named = self.phases or (PhaseOptions(name="train", mixture=dict.fromkeys(self.sources, 1.0)),)
        return tuple(
            PhaseSettings(
                name=phase.name,
                mixture=phase.mixture,
                learning_rate=_or(phase.learning_rate, self.train.learning_rate),
                penalty_strength=_or(phase.penalty_strength, self.penalty.strength),
                replay_share=_or(phase.replay_share, self.replay.share),
            )
            for phase in named
        )

    @property
    def trains_weights(self) -> bool:
        """Whether the run changes the weights themselves, and its result is a whole model."""
        return self.train.method == "full"

    @property
    def changes_text(self) -> bool:
        """Whether the trained part takes part in answers to text; if not, guards have nothing to hold."""
        return self.vision.trains != "projector"

    @property
    def answers_text(self) -> bool:
        """Whether the result takes part in answers to requests of text; if not, they are exactly the base's."""
        return (self.changes_text or bool(self.lora.start)) and self.vision.adapter_scope == "always"

    @property
    def measures_importance(self) -> bool:
        """Whether the penalty weighs the update by what was measured on general data."""
        return PENALTIES[self.penalty.kind].measured and self.changes_text

    @property
    def is_guarded(self) -> bool:
        """Whether anything holds general ability while the run trains."""
        return self.changes_text and self.asks_for_guards

    @property
    def asks_for_guards(self) -> bool:
        """Whether the options ask for a guard or rehearsal."""
        return self._weighs or self.penalty.held_energy > 0

    @property
    def _weighs(self) -> bool:
        """Whether anything holds that can be made to weigh more or less."""
        return self.penalty.kind != "none" or (self.replay.source != "none" and self._rehearses)

    def without_guards(self) -> RunConfig:
        """The same run with nothing that holds general ability."""
        replay = self.replay.model_copy(update={"source": "none", "share": 0.0, "loss_share": 0.0})
        penalty = self.penalty.model_copy(update={"kind": "none", "held_energy": 0.0})
        return self.model_copy(update={"replay": replay, "penalty": penalty})

    @property
    def has_budget(self) -> bool:
        """Whether the run has guards whose weight follows `forgetting.budget`."""
        return self.forgetting.budget > 0 and self.changes_text and self._weighs

    @property
    def stops_at_budget(self) -> bool:
        """Whether the run ends itself when it leaves `forgetting.budget`, with guards or without."""
        return self.forgetting.budget > 0 and self.preference.takes_prompts

    @property
    def is_judged(self) -> bool:
        """Whether the run ends with a verdict, for which base and result answer a suite's questions."""
        return self.asks_for_guards and self.forgetting.questions > 0

    @property
    def watches(self) -> bool:
        """Whether general ability is read while the run trains."""
        return self.forgetting.monitor_every > 0 or self.has_budget or self.stops_at_budget

    @property
    def needs_rehearsal(self) -> bool:
        """Whether rehearsal rows are made: to train on, or only to measure importance on."""
        used = self._rehearses or self.measures_importance
        return self.changes_text and self.replay.source != "none" and used

    @property
    def _rehearses(self) -> bool:
        """Whether any phase has rehearsal rows."""
        return any(phase.replay_share > 0 for phase in self.trained_phases)

    def digest(self) -> str:
        """Hash of every value, so that a resumed run can tell whether it is still the same run."""
        return digest_name(self.model_dump(mode="json"), digits=64)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _or(own: float | None, general: float) -> float:
    return general if own is None else own
