"""`filter_text`: cleans texts of any origin; it needs neither a model nor mlx."""

from __future__ import annotations

from typing import Any

from mlx_loopai.text.filter import Cleaned, Policy, clean


def filter_text(text: str, **policy: Any) -> Cleaned:
    """`text` without markup, links, code and foreign text, except names and terms that belong to a Korean sentence.

    policy: fields of `text.filter.Policy`, such as latin="acronyms" or emoji="keep".
    The result has the clean `text`, what was `removed` by rule, the `removed_share` of visible characters and `purity`.
    """
    return clean(text, Policy(**policy))
