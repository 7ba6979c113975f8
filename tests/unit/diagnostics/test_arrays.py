"""Each diagnosis against plain numpy, or against what can be said without computing."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_loopai.config import GenerationOptions, LoraOptions
from mlx_loopai.data.images import given_picture
from mlx_loopai.diagnostics.attention import attention
from mlx_loopai.diagnostics.gradients import gradient_flow
from mlx_loopai.diagnostics.hidden import hidden, linear_cka, mean_cosine, sentence_states
from mlx_loopai.diagnostics.lora_weights import update_norms, updates
from mlx_loopai.generation.prompts import single_prompt
from mlx_loopai.generation.session import open_session
from mlx_loopai.models.attention import watched_attention
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.load import LoadedModel, load_model
from mlx_loopai.models.lora import apply_lora, lora_modules
from tests.tiny_vision_folder import IMAGE, write_vision_folder

IDS = [[5, 6, 7, 8, 9, 10], [11, 12, 13]]


@pytest.fixture
def loaded(tiny_model_folder: Path) -> LoadedModel:
    return load_model(str(tiny_model_folder), "fp32")


def reference(q: np.ndarray, k: np.ndarray, scale: float, held: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sums over queries 1.. of one sequence, one head after the other."""
    heads, length, _ = q.shape
    mass, entropy, distance = np.zeros((heads, held.shape[1])), np.zeros(heads), np.zeros(heads)
    for head in range(heads):
        for t in range(1, length):
            scores = q[head, t] @ k[head * len(k) // heads, : t + 1].T * scale
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            even = held[: t + 1].mean(0)
            mass[head] += np.where(even > 0, (weights @ held[: t + 1]) / np.maximum(even, 1e-9), 1)
            entropy[head] -= (weights * np.log2(weights)).sum() / np.log2(t + 1)
            distance[head] += (weights * (t - np.arange(t + 1))).sum()
    return mass, entropy, distance


def test_attention_is_that_of_the_model(loaded: LoadedModel) -> None:
    classes = ["hangul" if token % 2 else "latin" for token in range(loaded.shape.vocab_size)]
    found = attention(loaded.model, IDS, classes)
    expected = [[0.0, 0.0, 0.0] for _ in loaded.model.layers]
    for ids in IDS:
        seen: dict[int, tuple[np.ndarray, np.ndarray, float]] = {}

        def keep(block: int, q: mx.array, k: mx.array, scale: float, seen: dict = seen) -> None:
            seen[block] = (np.array(q[0]), np.array(k[0]), scale)

        with watched_attention(loaded.model, keep):
            mx.eval(hidden_states(loaded.model, mx.array([ids])))
        held = np.array([[token % 2, 1 - token % 2] for token in ids], np.float64)
        for block, parts in seen.items():
            expected[block] = [a + b for a, b in zip(expected[block], reference(*parts, held), strict=True)]
    for part, values in enumerate((found.mass, found.entropy, found.distance)):
        np.testing.assert_allclose(values, np.stack([block[part] for block in expected]) / 7, rtol=1e-4)
    assert found.classes == ("hangul", "latin")


def test_attention_on_pictures(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Their tokens are read as what they show, at their positions, and are a class of their own."""
    folder = write_vision_folder(tmp_path / "model", "qwen2_5_vl", tiny_model_folder)
    picture = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 24, 3), dtype=np.uint8)).save(picture)
    session = open_session(str(folder), dtype="fp32")
    prompt = single_prompt("무엇인가요?", [given_picture(picture)])
    request = session.request(session.prompt_ids(prompt), GenerationOptions(), pictures=session.pictures(prompt))
    classes = ["picture" if token == IMAGE else "text" for token in range(session.loaded.shape.vocab_size)]
    found = attention(session.loaded.model, [request.prompt], classes, [request.pictures])
    blind = attention(session.loaded.model, [request.prompt], classes)
    assert found.classes == ("picture", "text")
    assert np.abs(found.mass - blind.mass).max() > 1e-3
    seen: list[tuple[np.ndarray, np.ndarray, float]] = []
    with watched_attention(
        session.loaded.model, lambda block, q, k, scale: seen.append((np.array(q[0]), np.array(k[0]), scale))
    ):
        mx.eval(hidden_states(session.loaded.model, mx.array([request.prompt]), pictures=request.pictures))
    held = np.array([[token == IMAGE, token != IMAGE] for token in request.prompt], np.float64)
    expected = np.stack([reference(*parts, held)[0] for parts in seen]) / (len(request.prompt) - 1)
    np.testing.assert_allclose(found.mass, expected, rtol=1e-3)


def test_watching_leaves_the_model_as_it_was(loaded: LoadedModel) -> None:
    before = np.array(loaded.model(mx.array(IDS[:1])))
    with pytest.raises(RuntimeError), watched_attention(loaded.model, lambda *_: None):
        raise RuntimeError
    np.testing.assert_array_equal(np.array(loaded.model(mx.array(IDS[:1]))), before)


def test_cka_against_the_textbook_form_and_its_invariances() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 1, 8, 5)).astype(np.float32)
    centred = [states[0] - states[0].mean(0) for states in (x, y)]
    cross, own = np.linalg.norm(centred[0].T @ centred[1]) ** 2, [np.linalg.norm(c.T @ c) for c in centred]
    assert linear_cka(x, y)[0] == pytest.approx(cross / (own[0] * own[1]), rel=1e-5)
    rotation = np.linalg.qr(generator.normal(size=(5, 5)))[0].astype(np.float32)
    assert linear_cka(x, 3 * x @ rotation + 1)[0] == pytest.approx(1, abs=1e-5)
    assert mean_cosine(x, -2 * x)[0] == pytest.approx(-1, abs=1e-6)


def test_hidden_states_drift_only_with_an_adapter_that_does_something(loaded: LoadedModel) -> None:
    apply_lora(loaded.model, LoraOptions(), seed=0)
    fresh = hidden(loaded.model, IDS, IDS[::-1])
    np.testing.assert_allclose(fresh.drift_cka, 1, atol=1e-5)
    np.testing.assert_array_equal(fresh.cosine, fresh.base_cosine)
    for layer in lora_modules(loaded.model).values():
        layer.lora_b = mx.random.normal(layer.lora_b.shape)
    moved = hidden(loaded.model, IDS, IDS[::-1])
    np.testing.assert_array_equal(moved.base_cosine, fresh.base_cosine)
    assert moved.drift_cosine[0] == pytest.approx(1, abs=1e-6)
    assert moved.drift_cosine[-1] < 0.999
    with pytest.raises(ValueError, match="two or more"):
        hidden(loaded.model, IDS[:1], IDS[:1])


def test_sentences_that_go_through_together_are_those_alone(loaded: LoadedModel) -> None:
    sentences = [[5, 6, 7, 8, 9, 10], [11, 12, 13], [4]]
    together = sentence_states(loaded.model, sentences)
    for place, ids in enumerate(sentences):
        alone = sentence_states(loaded.model, [ids])
        np.testing.assert_allclose(together[:, place], alone[:, 0], rtol=1e-4, atol=1e-5)
    # After the embedding: the plain mean over all tokens but the first, or that one when it is alone.
    table = np.array(loaded.model.model.embed_tokens.weight)
    np.testing.assert_allclose(together[0, 1], table[[12, 13]].mean(0), rtol=1e-5)
    np.testing.assert_allclose(together[0, 2], table[4], rtol=1e-5)


def test_updates_against_the_dense_matrix_and_an_outlier() -> None:
    generator = np.random.default_rng(1)
    factors = {
        f"m{n}": (*(generator.normal(size=shape).astype(np.float32) for shape in ((12, 3), (3, 7))), 2.0)
        for n in range(9)
    }
    factors["far"] = (factors["m0"][0] * 100, factors["m0"][1], 2.0)
    found = updates(factors)
    a, b, scale = factors["m3"]
    dense = scale * (a @ b)
    values = np.linalg.svd(dense, compute_uv=False)[:3]
    np.testing.assert_allclose(found["m3"].singular_values, values, rtol=1e-4)
    assert found["m3"].norm == pytest.approx(np.linalg.norm(dense), rel=1e-5)
    assert update_norms(factors) == pytest.approx({name: update.norm for name, update in found.items()}, rel=1e-5)
    assert found["m3"].largest == pytest.approx(np.abs(dense).max())
    assert 1 < found["m3"].effective_rank <= 3
    assert [name for name, update in found.items() if update.outlier] == ["far"]
    assert updates({"zero": (a * 0, b, 1.0)})["zero"].effective_rank == 0


def test_gradient_norms_are_those_of_the_loss_and_far_ones_are_named(loaded: LoadedModel) -> None:
    layers = apply_lora(loaded.model, LoraOptions(targets=("q_proj",)), seed=0)
    names = sorted(layers)
    factors = {name: 10.0 ** (-9 if place == 0 else 0) for place, name in enumerate(names)}

    def loss(batch: float) -> mx.array:
        return sum(batch * factors[name] * layers[name].lora_b.sum() for name in names)

    found = gradient_flow(loaded.model, loss, [1.0, 2.0])
    assert found.modules == tuple(names)
    size = layers[names[1]].lora_b.size
    np.testing.assert_allclose(found.norms[:, 1], [size**0.5, 2 * size**0.5], rtol=1e-5)
    assert (found.vanishing, found.exploding) == ((names[0],), ())
