"""Everything a run works with, opened once: no model folder, data file or hub is read a second time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_loopai.config import RunConfig
from mlx_loopai.data.learnt import RowForm
from mlx_loopai.data.records import Record
from mlx_loopai.data.rows import RowReader, Rows, WantedRows
from mlx_loopai.data.sight import Sight
from mlx_loopai.data.sources import DOMAIN, GENERAL_CATEGORY
from mlx_loopai.data.tokens import ChatEncoder, TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import adapter_options, find_adapter, read_adapter_config
from mlx_loopai.models.load import Base, LoadedModel
from mlx_loopai.progress import Advance
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.listener import Listener, Recorded


@dataclass(frozen=True)
class RunContext:
    """A run's configuration, folder, progress listener, base, and the reader of its data.

    base: the model's folder, shape and tokenizer; its weights are loaded once memory has been planned. reader: reads
    and encodes each file when it is first asked for.
    """

    config: RunConfig
    directory: RunDirectory
    listener: Listener
    base: Base
    reader: RowReader

    @staticmethod
    def open(config: RunConfig, directory: RunDirectory, listener: Listener) -> RunContext:
        """The context of a run on a base of its own, without the weights and before any data file is read.

        Raises: InputError when the model's folder, or the adapter of `lora.start`, cannot be read.
        """
        config = _in_the_form_of_its_start(config)
        base = Base.open(config.model)
        if base.unused_fields:
            listener.notice(
                tr(
                    "{path}: fields not used: {unused_fields}",
                    path=base.path,
                    unused_fields=", ".join(base.unused_fields),
                )
            )

        def stage(name: str, total: int) -> Advance:
            listener.stage(name, total)
            return listener.advance

        seen = base.sees
        reader = RowReader(base.tokenizer, None if seen is None else Sight(seen, config.vision.max_pixels), stage)
        return RunContext(config=config, directory=directory, listener=listener, base=base, reader=reader)

    def for_run(self, config: RunConfig, directory: RunDirectory) -> RunContext:
        """The context of another run on the same base; files that both need are read once."""
        assert config.model == self.config.model, "runs of one context share their base"
        return replace(self, config=_in_the_form_of_its_start(config), directory=directory)

    def recorded(self) -> RunContext:
        """The same context, whose notices and progress are also written to the run's log. The folder must exist."""
        return replace(self, listener=Recorded(self.listener, self.directory))

    @property
    def loaded(self) -> LoadedModel:
        """The model in its present state, with its adapter if it has one."""
        return self.base.loaded

    @property
    def encoder(self) -> ChatEncoder:
        """Encodes the run's rows and prompts."""
        return self.reader.encoder(self.config.system_prompt)

    @property
    def rows(self) -> Rows:
        """The training and validation rows. Raises: InputError when there are none or a file cannot be read."""
        config = self.config
        return self.reader.rows(
            WantedRows(
                sources=config.sources,
                validation=config.validation,
                validation_share=config.validation_share,
                preference=config.preference,
                form=self._form,
            )
        )

    @property
    def general(self) -> list[Record]:
        """The records of `general`; empty where only the embedded prompts are used. Raises: InputError."""
        return self.reader.records(self.config.general, GENERAL_CATEGORY)

    @property
    def general_rows(self) -> Sequence[TokenRow]:
        """The general records as training rows. Raises: InputError."""
        return self.encoded(self.config.general, GENERAL_CATEGORY)

    def encoded(self, path: str, category: str) -> Sequence[TokenRow]:
        """The rows of a data file under this run's configuration. Raises: InputError."""
        return self.reader.encoded(path, category, self._form)

    def held_out(self, path: str = "") -> Sequence[TokenRow]:
        """The domain rows of a file that were not trained on, or without one those that the run itself held out.

        Raises: InputError when there are none.
        """
        rows = self.encoded(path, DOMAIN) if path else self.rows.validation
        if not rows:
            raise InputError(tr("{run}: it held out no rows; name a file of such rows", run=self.directory.path))
        return rows

    @property
    def _form(self) -> RowForm:
        return RowForm(self.config.system_prompt, self.config.train.max_tokens)


def _in_the_form_of_its_start(config: RunConfig) -> RunConfig:
    """`config` with the form of the adapter that `lora.start` names; how it learns stays the run's own."""
    if not config.lora.start:
        return config
    folder = find_adapter(Path(config.lora.start))
    own = config.lora
    form = adapter_options(folder, read_adapter_config(folder))
    lora = form.model_copy(update={"start": own.start, "dropout": own.dropout, "b_rate": own.b_rate})
    return config.model_copy(update={"lora": lora})
