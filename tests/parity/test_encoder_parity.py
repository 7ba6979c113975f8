"""The same sentence vectors in transformers and in MLX, through the converter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import pytest

from converters.convert import convert
from mlx_loopai.models.embedder import INSTRUCTION, open_embedder
from mlx_loopai.models.encoder import load_encoder, pool, read_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 34,
    "layer_norm_eps": 1e-5,
}
KINDS: dict[str, dict[str, Any]] = {
    "Bert": {"pad_token_id": 0, "type_vocab_size": 2},
    "Roberta": {"pad_token_id": 1, "type_vocab_size": 1},
    "XLMRoberta": {"pad_token_id": 1, "type_vocab_size": 1},
}
WORDS = ["등대", "바다", "##지기", "불빛", "고양이", "배"]
TEXTS = ["등대 바다", "등대지기 불빛 고양이 배 바다", "배", " ".join(WORDS * 9)]


def write_tokenizer(folder: Path, pad: int) -> None:
    special = {"[PAD]": pad, "[CLS]": 2 - 2 * pad, "[SEP]": 3, "[UNK]": 4}
    vocabulary = special | {word: 5 + number for number, word in enumerate(WORDS)}
    (folder / "vocab.txt").write_text(
        "\n".join(sorted(vocabulary, key=vocabulary.__getitem__) if pad == 0 else _in_order(vocabulary)),
        encoding="utf-8",
    )
    tokenizer = transformers.BertTokenizer(vocab=dict(vocabulary), do_lower_case=False)
    tokenizer.save_pretrained(folder)


def _in_order(vocabulary: dict[str, int]) -> list[str]:
    words = {number: word for word, number in vocabulary.items()}
    return [words.get(number, f"[{number}]") for number in range(max(words) + 1)]


def published(folder: Path, kind: str, pooling: str = "mean") -> Any:
    """A random sentence-transformers checkpoint in `folder`. Returns: transformers' model."""
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**SHAPE | KINDS[kind])
    model = getattr(transformers, f"{kind}Model")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if "LayerNorm.weight" in name else 0.0))
    model.save_pretrained(folder)
    write_tokenizer(folder, KINDS[kind]["pad_token_id"])
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{name}": name.startswith(pooling) for name in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 48, **modes}))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20, "do_lower_case": false}')
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefixed", [False, True])
def test_hidden_states(tmp_path: Path, kind: str, prefixed: bool) -> None:
    model = published(tmp_path / "source", kind)
    if prefixed:
        # As a model with a pretraining head is saved, in torch's own format.
        (tmp_path / "source" / "model.safetensors").unlink()
        prefix = "bert." if kind == "Bert" else "roberta."
        state = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
        state |= {"lm_head.dense.weight": torch.zeros(2, 2), f"{prefix}embeddings.position_ids": torch.arange(34)}
        torch.save(state, tmp_path / "source" / "pytorch_model.bin")
    done = convert(tmp_path / "source", tmp_path / "out", check=True)
    assert done.verification is not None
    assert done.verification.logits_max_abs == 0
    pad = KINDS[kind]["pad_token_id"]
    generator = np.random.default_rng(0)
    lengths = np.array([30, 7, 1])
    ids = generator.integers(5, 40, (3, 30))
    ids[np.arange(30)[None] >= lengths[:, None]] = pad
    mask = (np.arange(30)[None] < lengths[:, None]).astype(np.int64)
    with torch.no_grad():
        theirs = model(torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state.numpy()
    loaded = load_encoder(tmp_path / "out", read_config(tmp_path / "out"))
    assert (loaded.pooling, loaded.max_tokens, loaded.dims) == ("mean", 20, 48)
    states = loaded.model(mx.array(ids), mx.array(lengths))
    assert np.abs(np.array(states) - theirs)[mask == 1].max() < 2e-5
    means = np.stack([theirs[row, :length].mean(axis=0) for row, length in enumerate(lengths)])
    np.testing.assert_allclose(np.array(pool(states, mx.array(lengths), "mean")), means, atol=2e-5)
    np.testing.assert_allclose(np.array(pool(states, mx.array(lengths), "cls")), theirs[:, 0], atol=2e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_vectors_in_a_batch(tmp_path: Path, pooling: str) -> None:
    model = published(tmp_path / "source", "Roberta", pooling)
    convert(tmp_path / "source", tmp_path / "out", dtype="fp32")
    tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path / "source")
    embedder = open_embedder(str(tmp_path / "out"))
    found = embedder.passages(TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        encoded = tokenizer(text, truncation=True, max_length=20, return_tensors="pt")
        with torch.no_grad():
            states = model(encoded["input_ids"], attention_mask=encoded["attention_mask"]).last_hidden_state[0].numpy()
        wanted = states[0] if pooling == "cls" else states.mean(axis=0)
        np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), atol=2e-5)
    np.testing.assert_allclose(embedder.query(TEXTS[1]), found[1], atol=2e-6)


def test_qwen3_embedding(tmp_path: Path) -> None:
    """As its makers publish it: no head, names without a prefix; the last token's state behind an instruction."""
    from tests.tiny_files import write_tokenizer as write_letters

    torch.manual_seed(3)
    config = transformers.Qwen3Config(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    model = transformers.Qwen3Model(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if "norm" in name else 0.0))
    source = write_letters(tmp_path / "source")
    model.save_pretrained(source)
    stored = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(stored | {"architectures": ["Qwen3ForCausalLM"]}))
    convert(source, tmp_path / "out", dtype="fp32")
    embedder = open_embedder(str(tmp_path / "out"))
    texts = ["abc", "A longer text, with more letters.", "z"]
    (end,) = embedder.encode("")
    for prefix, vectors in (
        ("", embedder.passages(texts)),
        (INSTRUCTION, np.stack([embedder.query(t) for t in texts])),
    ):
        for text, vector in zip(texts, vectors, strict=True):
            ids = torch.tensor([[*embedder.encode(prefix + text)]])
            assert ids[0, -1] == end
            with torch.no_grad():
                wanted = model(ids).last_hidden_state[0, -1].numpy()
            np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), atol=2e-5)
