"""Whether the text filter's memory stays the same however long its input is.

    python bench/filter_stream.py FILE... [--megabytes 100 1000]

The text of the files is fed again and again, in pieces of 64 Ki characters, each size in a process of its own; noise as
in filter_speed.py. Reports speed and the process's peak memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path

from filter_speed import lines_of, with_noise

from mlx_loopai.text.filter import Filter

PIECE_CHARS = 1 << 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--noisy-share", type=float, default=0.02)
    options = parser.parse_args()
    text = with_noise(lines_of(options.files), options.noisy_share)
    spawn = multiprocessing.get_context("spawn")
    for megabytes in options.megabytes:
        with spawn.Pool(1) as pool:
            print(json.dumps(pool.apply(_streamed, (text, megabytes))), flush=True)  # noqa: T201


def _streamed(text: str, megabytes: int) -> dict[str, float]:
    pieces = [text[start : start + PIECE_CHARS] for start in range(0, len(text), PIECE_CHARS)]
    sizes = [len(piece.encode()) for piece in pieces]
    scanner = Filter()
    fed = out = place = 0
    started = time.perf_counter()
    while fed < megabytes * 1_000_000:
        out += len(scanner.feed(pieces[place]))
        fed += sizes[place]
        place = (place + 1) % len(pieces)
    out += len(scanner.close())
    seconds = time.perf_counter() - started
    scale = 1 if sys.platform == "darwin" else 1024
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return {
        "bytes_in": fed,
        "chars_out": out,
        "removed": sum(scanner.removed.values()),
        "mb_per_s": fed / 1e6 / seconds,
        "peak_rss_bytes": peak_bytes,
    }


if __name__ == "__main__":
    main()
