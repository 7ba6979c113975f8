"""PyTorch with transformers and PEFT, on CPU or MPS."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from mlx_loopai.benchmark.cases import CaseRows, TrainCase
from mlx_loopai.benchmark.race_results import StepClock
from mlx_loopai.benchmark.resident import reset_peak_rss, resident_bytes, resident_peak_bytes
from mlx_loopai.benchmark.steps import PlannedSteps
from mlx_loopai.data.batches import collate
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import LoopaiError
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import CONFIG_FILE, WEIGHTS_FILE, read_adapter_config
from mlx_loopai.models.load import load_tokenizer
from mlx_loopai.models.micro_batch import MicroBatch

_IGNORED = -100


class TorchSide:
    """A model of transformers, the adapter in PEFT's LoRA layers (transposed: PEFT stores A as (R, D_in))."""

    memory = "peak of the process's resident memory above that with the model loaded"

    def __init__(self, model: Path, adapter: Path | None, device: str) -> None:
        if device == "mps" and not torch.backends.mps.is_available():
            raise LoopaiError(tr("torch-mps: this machine has no MPS device; take torch-cpu"))
        # The thread count of the other sides: MKL's.
        torch.set_num_threads(int(os.environ.get("MKL_NUM_THREADS") or os.cpu_count() or 1))
        self.versions = {name: version(name) for name in ("torch", "transformers", "peft")}
        self._device = torch.device(device)
        self._ends = sorted(load_tokenizer(model).eos_token_ids)
        self._model = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, local_files_only=True, attn_implementation="sdpa"
        )
        self._model.to(self._device)
        self._adapter = adapter
        if adapter is not None:
            self._add_adapter(adapter)
        self._held = 0

    def weights_bytes(self) -> int:
        return sum(array.numel() * array.element_size() for array in self._model.parameters())

    def reset_peak(self) -> None:
        self._held = resident_bytes()
        reset_peak_rss()

    def peak_bytes(self) -> int:
        return max(0, resident_peak_bytes() - self._held)

    def loss(self, rows: Sequence[TokenRow]) -> float:
        self._model.eval()
        with torch.no_grad():
            summed = sum(self._summed_loss(collate([row], len(row.ids))).item() for row in rows)
        return summed / sum(int(row.supervised.sum()) for row in rows)

    def train(self, case: TrainCase, rows: CaseRows, clock: StepClock) -> None:
        planned = PlannedSteps(case, rows)
        trained = [array for array in self._model.parameters() if array.requires_grad]
        optimizer = torch.optim.Adam(trained, case.learning_rate)
        if case.checkpointing:
            self._model.gradient_checkpointing_enable({"use_reentrant": False})
        self._model.train()
        for number in range(planned.count):
            clock.start()
            batches, held = planned.batches(number)
            for batch in batches:
                (self._summed_loss(batch) / held.supervised).backward()
            optimizer.param_groups[0]["lr"] = case.learning_rate * _uncorrected(number + 1)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self._wait()
            clock.stop({batch.ids.shape for batch in batches}, held)
        self._model.eval()

    def save_adapter(self, folder: Path) -> None:
        assert self._adapter is not None
        folder.mkdir(parents=True)
        arrays = {
            name: mx.array(np.ascontiguousarray(array.detach().cpu().numpy().T)) for name, array in self._lora().items()
        }
        mx.save_safetensors(str(folder / WEIGHTS_FILE), arrays)
        shutil.copy(self._adapter / CONFIG_FILE, folder / CONFIG_FILE)

    def generate(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
        width = max(map(len, prompts))
        # Padded on the left, so that all rows continue from the last column.
        padded = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        real = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        ids, seen = (torch.tensor(values, device=self._device) for values in (padded, real))
        with torch.inference_mode():
            found = self._model.generate(
                ids,
                attention_mask=seen,
                max_new_tokens=max_tokens,
                do_sample=False,
                repetition_penalty=1.0,
                eos_token_id=self._ends,
                pad_token_id=self._ends[0],
            )
        return [self._until_end(answer) for answer in found[:, width:].tolist()]

    def _until_end(self, answer: list[int]) -> list[int]:
        end = next((place for place, token in enumerate(answer) if token in self._ends), len(answer))
        return answer[:end]

    def _summed_loss(self, batch: MicroBatch) -> torch.Tensor:
        ids = torch.from_numpy(batch.ids.astype(np.int64)).to(self._device)
        targets = torch.where(torch.from_numpy(batch.supervised).to(self._device), ids, _IGNORED)[:, 1:]
        # No attention mask: rows are padded on the right, where a causal model does not see it.
        logits = self._model(input_ids=ids[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=_IGNORED, reduction="sum"
        )

    def _add_adapter(self, folder: Path) -> None:
        parameters = read_adapter_config(folder)["lora_parameters"]
        options = LoraConfig(
            r=parameters["rank"],
            lora_alpha=parameters["scale"] * parameters["rank"],
            lora_dropout=parameters["dropout"],
            target_modules=sorted({key.rsplit(".", 1)[-1] for key in parameters["keys"]}),
        )
        self._model = get_peft_model(self._model, options)
        stored = mx.load(str(folder / WEIGHTS_FILE))
        for name, array in self._lora().items():
            array.data.copy_(torch.from_numpy(np.array(stored[name]).T))

    def _lora(self) -> dict[str, torch.Tensor]:
        """PEFT's matrices by mlx-lm's names."""
        found = {}
        for name, array in self._model.named_parameters():
            if "lora_" in name:
                path = name.removeprefix("base_model.model.").removesuffix(".weight").removesuffix(".default")
                found[path.replace("lora_A", "lora_a").replace("lora_B", "lora_b")] = array
        return found

    def _wait(self) -> None:
        if self._device.type == "mps":
            torch.mps.synchronize()


def _uncorrected(step: int) -> float:
    """Factor that undoes the bias correction of PyTorch's Adam in step 1, 2, ...; MLX's Adam has none by default."""
    return float((1 - 0.9**step) / math.sqrt(1 - 0.999**step))


def open_side(model: Path, adapter: Path | None, backend: str) -> TorchSide:
    return TorchSide(model, adapter, backend.removeprefix("torch-"))
