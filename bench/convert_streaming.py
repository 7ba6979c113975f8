"""How fast and in how much memory `convert` streams bf16 to bf16, beside `cp` of the same folder in the same run.

    python bench/convert_streaming.py [--gigabytes 2] [--rounds 3] [--folder DIR]

Prints one JSON document: seconds of each round, rates, the ratio of the medians, and the conversion's peak memory over
that of the same process converting a few megabytes. Both end with the bytes on the disk (fsync).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CONVERT = """
import sys, time
from pathlib import Path
from converters.convert import convert
from converters.writers.target import Target
from mlx_loopai.cli.convert import peak_rss_bytes
start = time.perf_counter()
convert(sys.argv[1], Path(sys.argv[2]), target=Target(quantize=sys.argv[3] or None))
print(time.perf_counter() - start, peak_rss_bytes())
"""
LAYER_BYTES = 2 * 1024 * (4 * 1024 + 3 * 4096)


def write_source(folder: Path, n_bytes: int, sparse: bool = False) -> Path:
    """A qwen2 folder of about `n_bytes` of bf16 weights: random ones, or zeros that take no place on the disk."""
    from converters.names import expected_tensors

    layers = max(1, n_bytes // LAYER_BYTES)
    config = {
        "model_type": "qwen2", "vocab_size": 1024, "hidden_size": 1024, "intermediate_size": 4096,
        "num_hidden_layers": layers, "num_attention_heads": 16, "num_key_value_heads": 16, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 512, "rope_theta": 10000.0, "tie_word_embeddings": True,
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {chr(256 + number): number for number in range(64)}
    tokenizer = {"added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    header, position = {}, 0
    for name, shape in expected_tensors(config).items():
        end = position + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    block = np.random.default_rng(0).integers(0x3C00, 0x3F00, 4 << 20, dtype=np.uint16).tobytes()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if sparse:
            file.truncate(8 + len(text) + position)
            return folder
        for start in range(0, position, len(block)):
            file.write(block[: position - start])
    return folder


def converted(source: Path, out: Path, quantize: str = "") -> tuple[float, int]:
    """Seconds and peak resident bytes of one conversion in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", CONVERT, source, out, quantize], capture_output=True, text=True, check=True
    )
    seconds, peak = run.stdout.split()
    shutil.rmtree(out)
    return float(seconds), int(peak)


def copied(source: Path, out: Path) -> float:
    """Seconds of `cp -r` and of `sync`, which waits until the disk has the weights, as `convert` does."""
    start = time.perf_counter()
    subprocess.run(["cp", "-r", source, out], check=True)
    subprocess.run(["sync", out / "model.safetensors"], check=True)
    seconds = time.perf_counter() - start
    shutil.rmtree(out)
    return seconds


def measure(folder: Path, n_bytes: int, rounds: int) -> dict[str, object]:
    small, source, out = write_source(folder / "small", 1), write_source(folder / "source", n_bytes), folder / "out"
    size = (source / "model.safetensors").stat().st_size
    floor = converted(small, out)[1]
    converted(source, out)  # warms the page cache for both
    pairs = [(copied(source, out), *converted(source, out)) for _ in range(rounds)]
    cp, ours = (statistics.median(pair[at] for pair in pairs) for at in (0, 1))
    return {
        "bytes": size,
        "cp_s": [round(pair[0], 3) for pair in pairs],
        "convert_s": [round(pair[1], 3) for pair in pairs],
        "cp_bytes_per_s": round(size / cp),
        "convert_bytes_per_s": round(size / ours),
        "ratio": round(cp / ours, 3),
        "peak_rss_bytes": max(pair[2] for pair in pairs),
        "peak_rss_bytes_small": floor,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; the disk matters")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder), int(options.gigabytes * 1e9), options.rounds)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
