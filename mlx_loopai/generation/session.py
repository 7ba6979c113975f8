"""A model made ready to answer: weights, adapter and the system prompt that training used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_loopai.data.records import Record
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.errors import InputError
from mlx_loopai.generation.prompts import Prompt, build_messages
from mlx_loopai.models.adapters import CONFIG_FILE, load_adapter, read_adapter_config
from mlx_loopai.models.load import LoadedModel, load_model

# More is seldom wanted, and the keys and values of every conversation may grow to it.
_USUAL_CONTEXT = 8192


@dataclass(frozen=True)
class Session:
    """`system_prompt` is the one given, else the adapter's own, else none (the chat template's default stands)."""

    loaded: LoadedModel
    system_prompt: str
    adapter: Path | None

    @property
    def usual_context(self) -> int:
        """Tokens of prompt and answer together, when nobody says how many: the model's, at most 8192."""
        return min(self.loaded.max_positions, _USUAL_CONTEXT)

    def prompt_ids(self, prompt: Prompt, few_shot: Sequence[Record] = ()) -> list[int]:
        """The tokens that `prompt` and its examples become: the same form as a training row's.

        Raises: InputError naming the prompt's origin when the chat template refuses it.
        """
        messages = build_messages(prompt.messages, few_shot, self.system_prompt)
        try:
            return ChatEncoder(self.loaded.tokenizer).prompt_ids(messages)
        except InputError as error:
            raise InputError(f"{prompt.origin}: {error}") from None


def open_session(
    model: str, adapter: Path | None = None, system_prompt: str | None = None, dtype: str = "auto"
) -> Session:
    """Load `model`, and `adapter` on it when given (a RUN/adapter folder, or RUN itself).

    Raises: InputError for an unknown model, a folder that holds no adapter, or an adapter of another base.
    """
    folder, saved_prompt = None, ""
    if adapter is not None:
        # Before the weights: a mistyped folder should not cost a minute of loading.
        folder = find_adapter(adapter)
        saved_prompt = str((read_adapter_config(folder).get("mlx_loopai") or {}).get("system_prompt") or "")
    loaded = load_model(model, dtype)
    if folder is not None:
        load_adapter(loaded.model, folder, loaded.base_hash)
        loaded.model.eval()
    return Session(loaded, saved_prompt if system_prompt is None else system_prompt, folder)


def find_adapter(path: Path) -> Path:
    """The adapter folder that `path` is or holds as `adapter/`. Raises: InputError when there is none."""
    for folder in (path, path / "adapter"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    state = "no adapter here" if path.is_dir() else "no such folder"
    raise InputError(f"`adapter` {path}: {state} ({CONFIG_FILE} is missing); give a RUN/adapter folder")
