"""What the script constraint costs per token: the same greedy decoding with it and without, in turns.

    python bench/constraint_cost.py MODEL [--scripts ko+loanwords+gloss] [--tokens 24] [--rounds 3]

Times between tokens, the first two of each run left out; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import pairwise

from mlx_loopai.generation.constraint import Constraint, Scripts, Tally, build_constraint
from mlx_loopai.generation.engine import SamplingOptions, generate_stream
from mlx_loopai.generation.prompts import single_prompt
from mlx_loopai.generation.session import Session, open_session

PROMPT = "바닷가 마을에 사는 등대지기의 하루를 이야기로 써 줘."
LEFT_OUT = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--scripts", default="ko+loanwords+gloss")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    session = open_session(options.model)
    started = time.perf_counter()
    constraint = build_constraint(session.loaded, Scripts.parse(options.scripts))
    build_s = time.perf_counter() - started
    without: list[float] = []
    with_it: list[float] = []
    for _ in range(options.rounds):
        without += _times(session, None, options.tokens)
        with_it += _times(session, constraint, options.tokens)
    report = {
        "scripts": options.scripts,
        "build_or_read_s": build_s,
        "without_ms": 1000 * statistics.median(without),
        "with_ms": 1000 * statistics.median(with_it),
        "ratio": statistics.median(with_it) / statistics.median(without),
    }
    print(json.dumps(report, indent=2))  # noqa: T201


def _times(session: Session, constraint: Constraint | None, n_tokens: int) -> list[float]:
    """Seconds between the tokens of one answer."""
    ids = session.prompt_ids(single_prompt(PROMPT))
    sampling = SamplingOptions(temperature=0, max_tokens=n_tokens)
    stamps = [time.perf_counter() for _ in generate_stream(session.loaded, ids, sampling, constraint, Tally())]
    return [after - before for before, after in pairwise(stamps)][LEFT_OUT:]


if __name__ == "__main__":
    main()
