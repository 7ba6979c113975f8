"""`mlx-loopai serve` against `mlx_lm.server`: throughput and latency, one client and sixteen, in one run.

    python bench/serve_race.py --model MODEL [--clients 1 16] [--rounds 3] [--max-tokens 64] [--temperature T]
        [--turns N] [--system TEXT | --system-tokens N [--new-system]] [--large-caches] [--out F.json]

Both serve the same folder, a float32 copy of MODEL, so that both compute the same. Greedy answers of the same prompts
are compared first: the race counts only if both read and write the same. Then both are asked in turns, each with
as many clients at once. A third entry is `mlx-loopai serve` as it comes, with the script constraint, the repetition
guard and the filter. With a temperature the race is run with top-p 0.9, as chats are, and counted in tokens, since
every text is another.

With `--turns` each client holds chats of several turns, in which it sends back what was answered. A system prompt is
known to both servers from the comparison, unless each round has a new one.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from serve_chats import Length, card, chats

from mlx_loopai.benchmark.conditions import SystemReader, read_machine
from mlx_loopai.generation.engine import REPLACEMENT
from mlx_loopai.models.load import load_tokenizer, resolve_model

Message = dict[str, str]
# Room for the chats of all clients, also after a round with others.
LARGE_CACHE, LARGE_SEQUENCES = "4GiB", "64"
BARE = ("--scripts", "off", "--no-filter", "--repetition-guard", "0")
TOP_P = 0.9
START_SECONDS = 1800
LOOPAI = (sys.executable, "-m", "mlx_loopai")
# Importing `mlx_loopai` gives mlx-lm the same fast BLAS on Linux; its own wheel has a slow one.
MLX_LM = "import mlx_loopai; from mlx_lm.server import main; main()"


@dataclass(frozen=True)
class Server:
    name: str
    command: tuple[str, ...]
    url: str
    pid: int = 0


@dataclass(frozen=True)
class Answer:
    """first_s: seconds until its first text; all `seconds` where it has none. cached_tokens: of its prompt."""

    turn: int
    seconds: float
    first_s: float
    prompt_tokens: int
    cached_tokens: int
    tokens: int
    text: str


@dataclass(frozen=True)
class Round:
    """cpu_s: processor time of the server in the round, which other work on the machine hardly changes."""

    server: str
    clients: int
    seconds: float
    cpu_s: float
    answers: tuple[Answer, ...]

    @property
    def requests(self) -> int:
        return len(self.answers)

    @property
    def tokens(self) -> int:
        return sum(answer.tokens for answer in self.answers)


@dataclass(frozen=True)
class Asking:
    """How a server is asked for answers."""

    max_tokens: int
    temperature: float = 0.0
    system: str = ""

    def body(self, said: Sequence[Message]) -> dict[str, Any]:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        sampling = {"temperature": self.temperature} | ({"top_p": TOP_P} if self.temperature else {})
        return {
            "messages": [*messages, *said],
            "max_tokens": self.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **sampling,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2, help="chats of each client in a round, at least 8 in all")
    parser.add_argument("--turns", type=int, default=1, help="of each chat")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--system", default="", help="a system prompt of all requests")
    parser.add_argument("--system-tokens", type=int, default=0, help="a system prompt of this length instead")
    parser.add_argument("--new-system", action="store_true", help="each round has another, which no server knows")
    parser.add_argument("--large-caches", action="store_true", help="both keep what they read of all clients' chats")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / "model"
        write_float32(options.model, model)
        length = Length(load_tokenizer(model), options.system_tokens)
        with running(servers(model, max(options.clients), options.large_caches)) as started:
            greedy = Asking(options.max_tokens, system=options.system or card(length, 0))
            compared = chats(max(1, 8 // options.turns), options.turns)
            checked = {server.name: asked(server, compared, 1, greedy)[1] for server in started}
            rounds = [
                measured(
                    server,
                    clients,
                    options,
                    number,
                    options.system or card(length, 1 + number if options.new_system else 0),
                )
                for number in range(options.rounds)
                for clients in options.clients
                for server in started
            ]
    report = {
        "machine": asdict(read_machine(SystemReader())),
        "load": [load_before, os.getloadavg()[0]],
        "options": {name: value for name, value in vars(options).items() if name != "out"},
        "equal": equality(checked),
        "summary": summary(rounds, counted="tokens" if options.temperature else "requests"),
        "rounds": [told(one) for one in rounds],
    }
    text = json.dumps(report, ensure_ascii=False, indent=1)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(json.dumps({key: report[key] for key in ("equal", "summary", "load")}, ensure_ascii=False, indent=1))  # noqa: T201


def write_float32(model: str, out: Path) -> None:
    convert = (*LOOPAI, "convert", str(resolve_model(model)), "--to", "mlx", "--dtype", "fp32", "--out", str(out))
    subprocess.run((*convert, "--quiet"), check=True, stdout=subprocess.DEVNULL)


def servers(model: Path, most: int, large_caches: bool) -> list[Server]:
    ports = [free_port() for _ in range(3)]
    own = (*LOOPAI, "serve", "--model", str(model), "--concurrent", str(most), "--temperature", "0", "--quiet")
    theirs = (sys.executable, "-c", MLX_LM, "--model", str(model), "--log-level", "ERROR")
    commands = {"mlx-loopai": (*own, *BARE), "mlx-lm": theirs, "mlx-loopai, as it comes": own}
    if large_caches:
        commands["mlx-loopai"] += ("--prompt-cache", LARGE_CACHE)
        commands["mlx-lm"] += ("--prompt-cache-size", LARGE_SEQUENCES)
    return [
        Server(name, (*command, "--port", str(port)), f"http://127.0.0.1:{port}/v1")
        for (name, command), port in zip(commands.items(), ports, strict=True)
    ]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def running(wanted: Sequence[Server]) -> Iterator[Sequence[Server]]:
    """The servers, ready to answer."""
    started = [subprocess.Popen(one.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for one in wanted]
    try:
        for server, process in zip(wanted, started, strict=True):
            wait_for(server, process)
        yield [replace(server, pid=process.pid) for server, process in zip(wanted, started, strict=True)]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)


def wait_for(server: Server, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"{server.name} ended: {' '.join(server.command)}")
        try:
            talk(server, ["안녕?"], Asking(1))
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise SystemExit(f"{server.name} did not answer within {START_SECONDS} s")


def talk(server: Server, says: Sequence[str], asking: Asking) -> list[Answer]:
    """One chat: each turn is asked when the last was answered, with all that was said before."""
    said: list[Message] = []
    answers: list[Answer] = []
    for text in says:
        said.append({"role": "user", "content": text})
        answers.append(ask(server, said, asking))
        # Where an answer is cut within a character, mlx-lm leaves a replacement character.
        said.append({"role": "assistant", "content": answers[-1].text.rstrip(REPLACEMENT)})
    return answers


def ask(server: Server, said: Sequence[Message], asking: Asking) -> Answer:
    body = json.dumps(asking.body(said)).encode()
    request = urllib.request.Request(f"{server.url}/chat/completions", body, {"Content-Type": "application/json"})
    began, first_s, texts, usage = time.perf_counter(), None, [], {}
    with urllib.request.urlopen(request, timeout=START_SECONDS) as response:
        for event in events(response):
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                text = choice["delta"].get("content") or ""
                if text and first_s is None:
                    first_s = time.perf_counter() - began
                texts.append(text)
    seconds = time.perf_counter() - began
    return Answer(
        turn=1 + len(said) // 2,
        seconds=seconds,
        first_s=seconds if first_s is None else first_s,
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        tokens=usage["completion_tokens"],
        text="".join(texts),
    )


def events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The documents of server-sent events."""
    for line in lines:
        data = line.removeprefix(b"data: ").strip()
        if line.startswith(b"data: ") and data != b"[DONE]":
            yield json.loads(data)


def asked(server: Server, wanted: Sequence[Sequence[str]], clients: int, asking: Asking) -> tuple[float, list[Answer]]:
    """Seconds for all chats, and the answers; each client begins its next chat when its last has ended."""
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(lambda says: talk(server, says, asking), wanted))
    return time.perf_counter() - began, [answer for answers in found for answer in answers]


def measured(server: Server, clients: int, options: argparse.Namespace, number: int, system: str) -> Round:
    count = max(8, clients * options.requests)
    # New prompts each time: what a server remembers of the last round shall not help it.
    first = 100 + 1000 * number + 100 * options.clients.index(clients)
    asking = Asking(options.max_tokens, options.temperature, system)
    cpu_before = cpu_seconds(server.pid)
    seconds, answers = asked(server, chats(count, options.turns, first), clients, asking)
    return Round(
        server.name,
        clients=clients,
        seconds=seconds,
        cpu_s=cpu_seconds(server.pid) - cpu_before,
        answers=tuple(answers),
    )


def told(one: Round) -> dict[str, Any]:
    """A round as it is kept: without its texts."""
    found = asdict(one)
    for answer in found["answers"]:
        del answer["text"]
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of a process: to a hundredth of a second under Linux, elsewhere as `ps` shows it."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    shown = subprocess.run(["ps", "-o", "time=", "-p", str(pid)], check=True, capture_output=True, text=True).stdout
    seconds = 0.0
    for part in shown.strip().split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def equality(checked: dict[str, list[Answer]]) -> dict[str, Any]:
    """Whether both servers read and write the same, by the answers to the same prompts."""
    own, theirs = checked["mlx-loopai"], checked["mlx-lm"]
    pairs = list(zip(own, theirs, strict=True))
    return {
        "prompts": len(pairs),
        "prompt_tokens_equal": sum(one.prompt_tokens == other.prompt_tokens for one, other in pairs),
        "answer_tokens": [sum(one.tokens for one in own), sum(other.tokens for other in theirs)],
        "texts_equal": sum(one.text == other.text.rstrip(REPLACEMENT) for one, other in pairs),
    }


def times(answers: Sequence[Answer]) -> dict[str, float]:
    """How long clients waited for whole answers and for their first text, and what was read for them."""
    found = {}
    for name, waited in (
        ("", sorted(answer.seconds for answer in answers)),
        ("first_", sorted(answer.first_s for answer in answers)),
    ):
        found |= {f"{name}p50_s": statistics.median(waited), f"{name}p95_s": waited[int(0.95 * (len(waited) - 1))]}
    return found | {
        "prompt_tokens": statistics.mean(answer.prompt_tokens for answer in answers),
        "cached_tokens": statistics.mean(answer.cached_tokens for answer in answers),
    }


def summary(rounds: Sequence[Round], counted: str) -> list[dict[str, Any]]:
    """For each server and number of clients: the median round's speed, and the latencies of all rounds.

    counted: what the ratios compare, "requests" where the texts are the same (mlx-lm counts the end-of-text token as
    well), or "tokens". They are given by the clock, and by the processor time of each server.
    """
    found = []
    for clients in dict.fromkeys(one.clients for one in rounds):
        by_server, rates = {}, {}
        for name in dict.fromkeys(one.server for one in rounds):
            own = [one for one in rounds if (one.server, one.clients) == (name, clients)]
            answers = [answer for one in own for answer in one.answers]
            by_server[name] = {
                "server": name,
                "clients": clients,
                "answers_per_s": statistics.median(one.requests / one.seconds for one in own),
                "tokens_per_s": statistics.median(one.tokens / one.seconds for one in own),
                **times(answers),
                "by_turn": [
                    times([answer for answer in answers if answer.turn == turn])
                    for turn in sorted({answer.turn for answer in answers})
                ],
                "cpu_s_per_answer": sum(one.cpu_s for one in own) / len(answers),
            }
            rates[name] = (
                statistics.median(getattr(one, counted) / one.seconds for one in own),
                sum(getattr(one, counted) for one in own) / sum(one.cpu_s for one in own),
            )
        for name, one in by_server.items():
            by_clock, by_cpu = (rate / base for rate, base in zip(rates[name], rates["mlx-lm"], strict=True))
            found.append(one | {"times_mlx_lm": by_clock, "times_mlx_lm_in_cpu_time": by_cpu})
    return found


if __name__ == "__main__":
    main()
