"""The program as a person runs it: one process a command, on the embedded model."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
# How often each attack is tried; every one has its own seed.
ROUNDS = int(os.environ.get("MLX_LOOPAI_STRESS_ROUNDS", "5"))
# Sent by a terminal these would be obeyed; nothing that is not ours may be printed with them.
ESCAPES = "\x1b]52;c;aGFja2Vk\x07\x9b31m"


@dataclass(frozen=True)
class Ended:
    """Exit status, stdout and stderr of a process."""

    status: int
    out: str
    err: str

    @property
    def is_orderly(self) -> bool:
        """No traceback, no word that nobody expected this, and nothing that a terminal would obey."""
        said = self.out + self.err
        return "Traceback" not in said and "unexpected" not in said and not set("\x1b\x07\x9b") & set(said)


@dataclass(frozen=True)
class Program:
    """`mlx-loopai` with a cache of its own."""

    cache: Path

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mlx_loopai", *map(str, arguments)]
        settings = {"MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MLX_LOOPAI_CACHE": str(self.cache)}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | settings, cwd=ROOT)

    def run(self, *arguments: str | Path) -> Ended:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return Ended(process.returncode, out, err)

    def killed_after(self, seconds: float, *arguments: str | Path) -> Ended:
        """What `kill -9` after so long leaves of it; it may have ended before."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        return Ended(process.returncode, out, err)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of rows to train on."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    words = "바람 골목 아이 마당 강물 별빛 편지 겨울 부엌 서랍".split()
    generator = random.Random(0)
    lines = [
        {"prompt": f"{generator.choice(words)} 이야기", "completion": " ".join(generator.choices(words, k=12)) + "."}
        for _ in range(24)
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Server:
    """A server on the embedded model: where it listens, and its process."""

    url: str
    port: int
    process: subprocess.Popen[str]
    log: Path

    def answers(self) -> bool:
        """Whether an ordinary request gets its answer."""
        body = {"messages": [{"role": "user", "content": "안녕?"}], "max_tokens": 4, "temperature": 0}
        found = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60)
        return found.status_code == 200 and bool(found.json()["choices"])

    @property
    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS"))


@contextlib.contextmanager
def serving(program: Program, folder: Path) -> Iterator[Server]:
    """A server of its own, with its log in `folder`; whoever stops it earlier finds it stopped in order."""
    log = folder / "log"
    command = [sys.executable, "-m", "mlx_loopai", "serve", "--model", "nano", "--port", "0", "--json"]
    settings = os.environ | {"PYTHONPATH": str(ROOT), "MLX_LOOPAI_CACHE": str(program.cache)}
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=settings, cwd=ROOT) as process,
    ):
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        try:
            yield Server(said["url"], httpx.URL(said["url"]).port or 80, process, log)
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def server(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(program, tmp_path_factory.mktemp("server")) as running:
        yield running
