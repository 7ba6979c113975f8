"""The base class of all sections of the configuration, and the types of values that sections share."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from mlx_loopai.language import tr

# In single precision, dividing by a much smaller temperature would overflow.
_COLDEST = 1e-3


class Options(BaseModel):
    """A table of options: unknown names are errors, and no value changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _warm_enough(temperature: float) -> float:
    if temperature != 0 and temperature < _COLDEST:
        raise ValueError(tr("must be 0 (always the likeliest token), or {coldest} and more", coldest=_COLDEST))
    return temperature


Temperature = Annotated[float, AfterValidator(_warm_enough)]
# A configuration made in Python may hold paths.
PathText = Annotated[str, BeforeValidator(lambda given: str(given) if isinstance(given, PurePath) else given)]
