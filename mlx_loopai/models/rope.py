"""Rotary settings as a configuration means them, written out so that mlx-lm and transformers compute the same.

The two read the same keys differently: other defaults, another order of precedence, and keys that only one of them
knows. transformers is the reference, since checkpoints are made with it; what mlx-lm cannot compute is refused by name.
Pure: no mlx.

Sources: transformers 5, modeling_rope_utils.py and the configuration classes; mlx-lm 0.32, models/rope_utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr

# What transformers assumes when a configuration leaves the key out.
DEFAULT_THETA = 10_000.0
NEOX_ROTARY_SHARE = 0.25
BETA_FAST, BETA_SLOW = 32, 1

TYPES = ("linear", "dynamic", "llama3", "yarn")


def read_rope(config: Mapping[str, Any], where: str) -> tuple[Any, Any, dict[str, Any] | None]:
    """(base, rotated share of a head, scaling or None) of a configuration.

    As in transformers, a `rope_scaling` that is not empty replaces `rope_parameters`, and a key inside of it wins over
    the same key at the top.

    Raises:
        InputError: settings that are not an object or that mlx-lm computes differently; all are named at once.
    """
    neox = config.get("model_type") == "gpt_neox"
    nested = _nested(config, where)
    base = nested.get("rope_theta", config.get("rotary_emb_base" if neox else "rope_theta"))
    share = nested.get("partial_rotary_factor", config.get("rotary_pct" if neox else "partial_rotary_factor"))
    if share is None:
        share = NEOX_ROTARY_SHARE if neox else 1.0
    scaling = written_scaling(nested, config, where)
    if neox and scaling is not None:
        raise InputError(
            tr(
                "{where}: rope_scaling {nested} is not supported for gpt_neox, whose scaling mlx-lm ignores",
                where=where,
                nested=_shown(nested),
            )
        )
    if not neox and share != 1:
        raise InputError(
            tr(
                "{where}: partial_rotary_factor is {share}: mlx-lm rotates whole heads of {model_type}",
                where=where,
                share=_shown(share),
                model_type=config["model_type"],
            )
        )
    return DEFAULT_THETA if base is None else base, share, scaling


def settle_rope(config: dict[str, Any], where: str) -> None:
    """Write base and scaling where every loader looks for them, in `rope_theta` and `rope_scaling`.

    Raises: InputError as `read_rope` does.
    """
    config["rope_theta"], _, scaling = read_rope(config, where)
    drop_rope(config)
    if scaling is not None:
        config["rope_scaling"] = scaling


def drop_rope(config: dict[str, Any]) -> None:
    """Take out the keys in which rotary settings may be nested."""
    for key in ("rope_parameters", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings"):
        config.pop(key, None)


def _nested(config: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    for key in ("rope_scaling", "rope_parameters"):
        found = config.get(key)
        if not found:
            continue
        if not isinstance(found, Mapping):
            raise InputError(
                tr("{where}: {key} is {found} where an object is needed", where=where, key=key, found=_shown(found))
            )
        if any(isinstance(value, Mapping) for value in found.values()):
            raise InputError(
                tr(
                    "{where}: {key} differs by layer type, which mlx-lm does not compute for this model",
                    where=where,
                    key=key,
                )
            )
        return found
    return {}


def written_scaling(found: Mapping[str, Any], config: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """The scaling `found` with every value written that a loader would guess; None when nothing is scaled.

    Raises:
        InputError: an unknown type, or values that mlx-lm cannot compute.
    """
    kind = found.get("rope_type") or found.get("type") or "default"
    if kind == "default":
        return None
    if kind not in TYPES:
        raise InputError(
            tr(
                "{where}: rope_scaling {found} is not supported; {types} are",
                where=where,
                found=_shown(found),
                types=", ".join(TYPES),
            )
        )
    scaling: dict[str, Any] = {"rope_type": kind}
    # mlx-lm prefers the older name.
    scaling |= {"type": kind} if "type" in found else {}
    scaling["factor"] = found.get("factor")
    if kind in ("llama3", "yarn"):
        scaling["original_max_position_embeddings"] = _original_positions(found, config)
    if kind == "yarn" and scaling["factor"] is None and config.get("max_position_embeddings"):
        scaling["factor"] = config["max_position_embeddings"] / scaling["original_max_position_embeddings"]
    if kind == "llama3":
        scaling |= {key: found.get(key) for key in ("low_freq_factor", "high_freq_factor")}
    _check_numbers(scaling, found, where)
    if kind == "yarn":
        scaling |= _yarn(found, scaling["factor"], where)
    if kind == "llama3" and not scaling["high_freq_factor"] > scaling["low_freq_factor"]:
        raise InputError(tr("{where}: rope_scaling's high_freq_factor is not above its low_freq_factor", where=where))
    return scaling


def _original_positions(found: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    # transformers lets the key beside the scaling win; mlx-lm would assume 4096 (yarn) or 8192 (llama3).
    beside = config.get("original_max_position_embeddings")
    inside = found.get("original_max_position_embeddings")
    return beside if beside is not None else config.get("max_position_embeddings") if inside is None else inside


def _check_numbers(scaling: Mapping[str, Any], found: Mapping[str, Any], where: str) -> None:
    wanted = [key for key in scaling if key not in ("rope_type", "type")]
    values = {key: scaling[key] for key in wanted}
    signed = ("mscale", "mscale_all_dim")
    if scaling["rope_type"] == "yarn":
        optional = ("beta_fast", "beta_slow", "attention_factor", *signed)
        values |= {key: found[key] for key in optional if found.get(key) is not None}
    problems = [
        f"{key} is {_shown(value)} where a positive number is needed"
        for key, value in values.items()
        if not _is_number(value) or (value < 0 and key not in signed) or (value == 0 and key in wanted)
    ]
    if problems:
        raise InputError(
            tr(
                "{where}: rope_scaling {found} is not supported: {problems}",
                where=where,
                found=_shown(found),
                problems=all_problems(problems),
            )
        )


def _yarn(found: Mapping[str, Any], factor: float, where: str) -> dict[str, Any]:
    """YaRN's optional keys.

    transformers scales cosine and sine by `attention_factor`, else by the ratio of both mscales, else by
    0.1 ln(factor) + 1. mlx-lm knows the mscales only, and reads one of them alone too: so a given factor is written as
    the `mscale` that gives it, and a lone mscale, which transformers ignores, is left out.
    """
    if found.get("truncate") is False:
        raise InputError(tr("{where}: rope_scaling's truncate is false, which mlx-lm ignores for yarn", where=where))
    written: dict[str, Any] = {}
    for key in ("beta_fast", "beta_slow"):
        # 0 means the default there, and a division by zero in mlx-lm.
        if found.get(key):
            written[key] = found[key]
    attention = found.get("attention_factor")
    if attention is not None:
        if factor <= 1 and attention != 1:
            raise InputError(
                tr(
                    "{where}: rope_scaling's attention_factor {attention} with a factor of {factor} cannot be written "
                    "for mlx-lm, which takes 1 there",
                    where=where,
                    attention=attention,
                    factor=factor,
                )
            )
        written["attention_factor"] = float(attention)
        if factor > 1:
            written["mscale"] = (attention - 1) / (0.1 * math.log(factor))
    elif found.get("mscale") and found.get("mscale_all_dim"):
        written |= {key: found[key] for key in ("mscale", "mscale_all_dim")}
    return written


def yarn_attention_factor(scaling: Mapping[str, Any]) -> float:
    """The factor by which YaRN multiplies cosine and sine, from a scaling as `written_scaling` gives it.

    Source: YaRN (arXiv 2309.00071), equation 22; the ratio of mscales is DeepSeek's.
    """
    if scaling.get("attention_factor") is not None:
        return scaling["attention_factor"]

    def mscale(weight: float) -> float:
        return 1.0 if scaling["factor"] <= 1 else 0.1 * weight * math.log(scaling["factor"]) + 1

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return mscale(scaling["mscale"]) / mscale(scaling["mscale_all_dim"])
    return mscale(1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: object) -> str:
    return repr(value)[:120]
