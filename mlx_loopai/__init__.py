"""mlx-loopai: fine-tune a language model on a Mac without breaking it, and prove it.

    import mlx_loopai as m

    print(m.generate("가을 바다에 대한 글을 써 줘.").text)
    m.train(m.load_config("recipe.yaml"), "runs/first")

Every name here is loaded when it is first used: importing the package costs a few milliseconds and changes nothing in
the process. docs/python.md shows what each does. Type checkers read __init__.pyi.
"""

from __future__ import annotations

from typing import Any

from mlx_loopai._blas import prefer_mkl_before_mlx

__version__ = "0.1.0"

_PLACES = {
    "config": ("GenerationOptions", "RunConfig", "load_config"),
    "errors": ("InputError", "LoopaiError"),
    "experiments.evaluate": ("evaluate",),
    "generation.answer_stream": ("Text",),
    "library.cleaning": ("filter_text",),
    "library.conversion": ("convert",),
    "library.training": ("compare", "plan", "train"),
    "library.writing": ("Model", "TextStream", "generate", "load", "stream"),
    "runs.listener": ("Listener",),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}

__all__ = ["__version__", *_MODULES]

prefer_mkl_before_mlx()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
