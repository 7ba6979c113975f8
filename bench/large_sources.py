"""What large files of rows cost: `data audit` and the start of `train`, in processor time and peak memory.

    python bench/large_sources.py write --rows 1900000 --out ROWS.jsonl
    python bench/large_sources.py cost -- data audit ROWS.jsonl --quiet
    python bench/large_sources.py cost -- train --plain --data ROWS.jsonl --out RUN --set train.max_steps=5
    python bench/large_sources.py rate ROWS.jsonl --model nano

`write` makes seeded rows of about 590 bytes (of 5 kB with `--answers 9`), of which 1 % repeat another word for word and
1 % nearly. `cost` runs a command of mlx-loopai and prints its processor seconds, seconds until each stage of its work
ended, and peak memory.
`rate` prints processor seconds for each MB of a file of some thousand rows: reading, the tokens of all texts, and the
whole encoding, each also as it is done for large files.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile

from mlx_loopai.data.encoding import encode_into
from mlx_loopai.data.records import Scan
from mlx_loopai.data.row_file import RowWriter
from mlx_loopai.data.samples.corpus import handwritten_records
from mlx_loopai.data.special import SpecialNames
from mlx_loopai.data.text_tokens import text_ids
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.models.load import load_tokenizer, resolve_model

PHRASE_WORDS, PHRASES = 4, (9, 14)
REPEATED, NEARLY = 0.01, 0.02
# Rows that a repeat is drawn from.
RECENT = 1000


def phrases() -> list[str]:
    """Every four words of the hand-written Korean texts that follow each other."""
    words = [record.messages[1].content.split() for record in handwritten_records(held_out=False)]
    found = (" ".join(some[at : at + PHRASE_WORDS]) for some in words for at in range(len(some) - PHRASE_WORDS))
    return [phrase for phrase in found if not re.search("[A-Za-z]", phrase)]


def rows(count: int, seed: int, answers: int = 1) -> Iterator[tuple[str, str]]:
    """(request, answer) pairs. answers: how many times as long an answer is."""
    rng, known = random.Random(seed), phrases()
    recent = [("이야기를 써 줘.", "옛날 옛적에 토끼가 살았다.")]
    for number in range(count):
        drawn = rng.random()
        if drawn < NEARLY:
            request, answer = rng.choice(recent)
            yield request, answer if drawn < REPEATED else answer[:-3] + "다."
            continue
        request = f"{rng.choice(known)} 이야기를 써 줘."
        row = request, ". ".join(rng.choices(known, k=answers * rng.randint(*PHRASES))) + "."
        recent[number % RECENT : number % RECENT + 1] = [row]
        yield row


def write(out: Path, count: int, seed: int, answers: int) -> None:
    """Write `count` chat rows as JSONL."""
    with out.open("w", encoding="utf-8") as file:
        for request, answer in rows(count, seed, answers):
            turns = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")


def cost(command: list[str]) -> dict[str, object]:
    """What one command of mlx-loopai takes, in a process of its own."""
    start, ends = time.perf_counter(), {}
    run = subprocess.Popen(
        [sys.executable, "-m", "mlx_loopai", *command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert run.stderr is not None
    for line in run.stderr:
        sys.stderr.write(line)
        ends[line.partition(":")[0].strip()] = round(time.perf_counter() - start, 1)
    _, status, used = os.wait4(run.pid, 0)
    return {
        "command": " ".join(command),
        "exit_status": os.waitstatus_to_exitcode(status),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "wall_s": round(time.perf_counter() - start, 1),
        "peak_mib": round(used.ru_maxrss / (1 << 10 if sys.platform == "linux" else 1 << 20), 1),
        "last_line_s": ends,
    }


def rates(path: Path, model: str, rounds: int = 4) -> dict[str, float]:
    """Processor seconds for each MB, the best of some rounds."""
    tokenizer, scan = load_tokenizer(resolve_model(model)), Scan.of(path)
    texts = [message.content for row in scan.rows() for message in row.messages]
    slow, hastened = ChatEncoder(tokenizer), ChatEncoder(tokenizer)
    quick = hastened.hasten()

    def encode(encoder: ChatEncoder) -> None:
        with TemporaryFile() as file, closing(RowWriter(file, scan.files)) as writer:
            encode_into(writer, encoder, scan.rows(), max_tokens=4096)
            writer.finish({})

    parts = {
        "reading": lambda: list(scan.rows()),
        "the texts' tokens": lambda: text_ids(tokenizer, SpecialNames([]), texts),
        "the texts' tokens, hastened": lambda: text_ids(tokenizer, SpecialNames([]), texts, quick),
        "encoding": lambda: encode(slow),
        "encoding, hastened": lambda: encode(hastened),
    }
    return {name: min(_cpu_s(part) for _ in range(rounds)) / scan.size_bytes * 1e6 for name, part in parts.items()}


def _cpu_s(part: Callable[[], object]) -> float:
    start = time.process_time()
    part()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    writing = parts.add_parser("write")
    writing.add_argument("--rows", type=int, required=True)
    writing.add_argument("--out", type=Path, required=True)
    writing.add_argument("--seed", type=int, default=0)
    writing.add_argument("--answers", type=int, default=1)
    parts.add_parser("cost").add_argument("command", nargs="+")
    rate = parts.add_parser("rate")
    rate.add_argument("rows", type=Path)
    rate.add_argument("--model", default="nano")
    given = parser.parse_args()
    if given.part == "write":
        write(given.out, given.rows, given.seed, given.answers)
    elif given.part == "rate":
        found = rates(given.rows, given.model)
        sys.stdout.write("".join(f"{name:34} {each:.3f} s/MB, {1 / each:.2f} MB/s\n" for name, each in found.items()))
    else:
        sys.stdout.write(json.dumps(cost(given.command), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
