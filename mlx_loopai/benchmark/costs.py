"""Computes the cost of a measured rate, per hour and per million tokens, on local and rented machines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

TABLE = Path(__file__).with_name("costs.yaml")


@dataclass(frozen=True)
class Price:
    """A machine and its dollars an hour."""

    name: str
    dollars_per_hour: float

    def per_million_tokens(self, tokens_per_s: float) -> float:
        """Dollars for a million tokens at this rate."""
        return self.dollars_per_hour * 1e6 / (3600 * tokens_per_s)


def read_prices(path: Path = TABLE) -> list[Price]:
    """The table of a YAML file: `name: {dollars_per_hour: X}`. Raises: InputError for another shape."""
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
        prices = [Price(str(name), float(entry["dollars_per_hour"])) for name, entry in table.items()]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            tr(
                "{path}: no table of `name: {{dollars_per_hour: X}}` ({reason}); see costs.yaml",
                path=path,
                reason=reason,
            )
        ) from None
    if not prices or any(price.dollars_per_hour <= 0 for price in prices):
        raise InputError(tr("{path}: every machine needs dollars_per_hour above 0", path=path))
    return prices


def rate_of_equal_cost(local: Price, rented: Price, tokens_per_s: float) -> float:
    """Tokens per second at which a token on the rented machine costs as much as on the local one."""
    return tokens_per_s * rented.dollars_per_hour / local.dollars_per_hour
