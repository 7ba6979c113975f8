"""An adapter as one GGUF file in llama.cpp's layout, for llama.cpp, Ollama and LM Studio beside a base of any form.

Its tensors have the names of the matrices that they change, as the base's GGUF file calls them: `X.weight.lora_a`
(R, D_in) and `X.weight.lora_b` (D_out, R); the update is alpha / R times their product, R being that of the tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf

import mlx_loopai  # noqa: F401  # before mlx: on Linux it loads the fast BLAS

# isort: split
import mlx.core as mx
import numpy as np

from converters import names
from converters.output import check_output_free, output_file, work_folder
from converters.peft import hf_module
from converters.row_order import gguf_row_order, of_columns
from converters.writers.gguf import check_is_written
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr
from mlx_loopai.models.adapter_folder import Adapter
from mlx_loopai.models.architectures import ARCHITECTURES
from mlx_loopai.models.configuration import complete_configuration
from mlx_loopai.models.shape import ModelShape


def write_gguf_adapter(out: Path, adapter: Adapter, config: Mapping[str, Any], where: str) -> None:
    """Write `adapter` to the file `out`, whole or not at all. `config`: the base's config.json, from `where`.

    Raises:
        InputError: something is at `out`, the architecture is not written to GGUF, or the adapter does not fit it.
        OSError: the file cannot be written.
    """
    check_output_free(out)
    complete = complete_configuration(config, where)
    shape = ModelShape.from_config(complete, where)
    check_is_written(complete, where)
    arrays = _arrays(adapter, complete, shape, where)
    with work_folder(out) as work, output_file(out, work) as path:
        writer = gguf.GGUFWriter(path, ARCHITECTURES[shape.architecture].gguf)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.scale * adapter.rank)
        for name, array in arrays.items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _arrays(adapter: Adapter, config: Mapping[str, Any], shape: ModelShape, where: str) -> dict[str, np.ndarray]:
    architecture = ARCHITECTURES[shape.architecture]
    expected = names.expected_tensors(config)
    found: dict[str, np.ndarray] = {}
    problems = []
    for module, (a, b) in adapter.factors.items():
        name = f"{hf_module(module)}.weight"
        theirs = names.gguf_name(name, architecture)
        wanted, given = expected.get(name), (b.shape[1], a.shape[0])
        if theirs is None or wanted != given:
            absent = tr("missing")
            problems.append(
                tr("{name} is {found}, the adapter wants {wanted}", name=name, found=wanted or absent, wanted=given)
            )
            continue
        order = gguf_row_order(name, config)
        down = np.array(a.astype(mx.float32)).T
        up = np.array(b.astype(mx.float32)).T * np.float32(a.shape[1] / adapter.rank)
        if order is not None and of_columns(name, expected[name]):
            down = down[:, order]
        elif order is not None:
            up = up[order]
        found[f"{theirs}.lora_a"], found[f"{theirs}.lora_b"] = map(np.ascontiguousarray, (down, up))
    if problems:
        raise InputError(
            tr(
                "{where}: the adapter does not fit this base: {problems}",
                where=where,
                problems=all_problems(problems, 4),
            )
        )
    return found
