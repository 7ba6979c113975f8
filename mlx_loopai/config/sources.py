"""What a training run reads: data files, and the pictures among their rows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mlx_loopai.config.table import Options, PathText

SourceKind = Literal["auto", "rows", "pairs", "labels", "positions", "prompts"]


class SourceOptions(Options):
    """One data file and how much of it a phase sees."""

    path: PathText = Field(
        description="JSONL, JSON, CSV or Parquet file, or a folder of them; relative to the recipe; "
        "samples/NAME: embedded rows; hf:OWNER/NAME[:SPLIT]: a data set on the hub"
    )
    category: Literal["dialogue", "knowledge", "creative", "domain"] = Field("domain", description="what kind of rows")
    kind: SourceKind = Field(
        "auto",
        description="pairs: a chosen and a rejected answer; labels: one answer and whether it is good; positions: "
        "places in answers, with tokens that might follow; prompts: requests that the model itself answers while it "
        "trains; rows: learn the chosen and good answers as they are; auto: as each row looks",
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="our name of a field -> the file's own, such as prompt: 질문"
    )
    skip_bad: bool = Field(
        False, description="leave out rows that cannot be learnt, and list them, instead of stopping"
    )
    allow_special: bool = Field(
        False, description="a control token's name in a text, such as <|im_end|>, is that token; otherwise it is text"
    )


class VisionOptions(Options):
    """How a model that reads pictures is trained on rows with pictures."""

    trains: Literal["projector", "all"] = Field(
        "all",
        description="projector: only what leads from an added encoder to the text model, which stays as it is, with the"
        " adapter of lora.start where one is named; all: the adapter, and the projector with it",
    )
    start: PathText = Field(
        "", description="an adapter folder, or its run, whose projector this run begins with; empty: the model's own"
    )
    align_steps: int = Field(
        0,
        ge=0,
        description="steps before the first, without the text model, in which a new projector learns to give the word"
        " vectors of each picture's answer: seconds for hundreds of them",
    )
    adapter_scope: Literal["always", "image"] = Field(
        "always", description="image: the adapter answers requests with pictures only, the base all others"
    )
    max_pixels: int = Field(
        1_003_520,
        ge=256,
        description="larger pictures are made smaller, to this many pixels; fewer pixels are fewer tokens",
    )
