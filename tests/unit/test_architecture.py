"""Rules that no linter knows: what Metal cannot do, who may set limits and print, how long a thing may get."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("mlx_loopai", "converters")
PROGRAMS = ("tools", "bench")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 6
# A record with more fields is made by their names.
MAX_NAMELESS_FIELDS = 4

SOURCES = sorted(path for folder in (*PACKAGES, *PROGRAMS) for path in (ROOT / folder).rglob("*.py"))
WITH_TESTS = SOURCES + sorted((ROOT / "tests").rglob("*.py"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _dotted(node: ast.AST) -> str:
    """`mx.linalg.svd` for that expression; "" for anything but names and attributes."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _keyword(call: ast.Call, name: str) -> str:
    return next((ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == name), "")


def _calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    return ((node, _dotted(node.func)) for node in ast.walk(tree) if isinstance(node, ast.Call))


def _imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def _forbidden_calls(tree: ast.AST, file: str) -> Iterator[tuple[int, str]]:
    for call, name in _calls(tree):
        if re.search(r"(^|\.)set_\w+_limit$", name) and file != "mlx_loopai/memory/watch.py":
            yield call.lineno, f"{name} belongs in memory/guard.py"
        if re.match(r"(mx|mlx\.core)\.linalg\.", name) and _keyword(call, "stream") != "mx.cpu":
            yield call.lineno, f"{name} without stream=mx.cpu: Metal has no such kernel"
        if name == "print" and not file.startswith("mlx_loopai/cli/"):
            yield call.lineno, f"{name}: only the CLI prints"
        if _keyword(call, "trust_remote_code") == "True":
            yield call.lineno, "trust_remote_code=True runs a stranger's code"
        if name == "torch.load":
            yield call.lineno, "torch.load can run a stranger's code"


def _forbidden_expressions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if _dotted(node) in ("mx.float64", "mlx.core.float64"):
            yield node.lineno, "mx.float64: Metal has no such type"
        indexed = node.value if isinstance(node, ast.Subscript) else None
        if isinstance(indexed, ast.Call) and _dotted(indexed.func).endswith("device_info"):
            yield node.lineno, "device_info()[...]: keys differ between backends, use .get"


# CSS variables, and command lines that a person copies whole, are no flags in a sentence.
_FLAG = re.compile(r"(?:^|[\s`'\"]|(?<!var)\()--[a-z]")
_COMMAND_LINE = re.compile(r"\s*(mlx-loopai [a-z].*|(uv tool|pipx) install.*|--[a-z-]+)")
_WITH_CSS = ("mlx_loopai/report/kit/style.py",)


def _flags_in_sentences(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The library is called from Python, too: it names arguments, and cli.wording makes flags of them."""
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if _FLAG.search(text) and not _COMMAND_LINE.fullmatch(text):
            yield node.lineno, "names a --flag: name the argument in backticks, such as `max_tokens`"


def _oversized(tree: ast.AST, lines: int) -> Iterator[tuple[int, str]]:
    if lines > MAX_FILE_LINES:
        yield 1, f"{lines} lines, at most {MAX_FILE_LINES}: two things, split it by meaning"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {length} lines, at most {MAX_FUNCTION_LINES}"


def _fields(sources: Iterable[str]) -> dict[str, int]:
    """How many fields each dataclass has; of several with one name, the least."""
    found: dict[str, int] = {}
    for node in (node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)):
        if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
            count = sum(isinstance(line, ast.AnnAssign) for line in node.body)
            found[node.name] = min(count, found.get(node.name, count))
    return found


FIELDS = _fields(path.read_text(encoding="utf-8") for path in SOURCES)


def _is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether click calls it: each of its parameters is an option of the command line."""
    return any(_dotted(getattr(each, "func", each)).endswith("command") for each in node.decorator_list)


def _crowded(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_command(node):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = sum(argument.arg not in ("self", "cls") for argument in arguments)
            if count > MAX_PARAMETERS:
                yield node.lineno, f"{node.name} takes {count} parameters, at most {MAX_PARAMETERS}: they have a name"


def _nameless(tree: ast.AST) -> Iterator[tuple[int, str]]:
    foreign = _imported(tree) - {*PACKAGES, *PROGRAMS}
    for call, dotted in _calls(tree):
        module, _, name = dotted.rpartition(".")
        if module.split(".")[0] in foreign:
            continue
        if len(call.args) > 2 and FIELDS.get(name, 0) > MAX_NAMELESS_FIELDS:
            yield call.lineno, f"{name}: a record of {FIELDS[name]} fields, name them"


# What a whole run needs: below these rooms a function takes the options that it reads.
_WHOLE = {"RunConfig", "RunContext"}
_KNOW_A_RUN = ("cli", "library", "experiments", "training", "runs", "config", "memory/plan.py", "__init__.py")


def _takes_a_whole_run(tree: ast.AST, file: str) -> Iterator[tuple[int, str]]:
    if file.startswith("mlx_loopai/") and not file.removeprefix("mlx_loopai/").startswith(_KNOW_A_RUN):
        for node in ast.walk(tree):
            for name in _WHOLE & {alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)}:
                yield node.lineno, f"imports {name}: take the options that are read, such as `config.train`"


def violations(source: str, file: str) -> list[str]:
    """Every broken rule as `file:line: reason`; the rules for the packages hold outside tests/."""
    tree = ast.parse(source)
    found = list(_oversized(tree, len(source.splitlines())))
    if not file.startswith("tests/"):
        found += [*_crowded(tree), *_nameless(tree)]
    if file.startswith(PACKAGES):
        found += [*_forbidden_calls(tree, file), *_forbidden_expressions(tree), *_takes_a_whole_run(tree, file)]
        if not file.startswith("mlx_loopai/cli/") and file not in _WITH_CSS:
            found += _flags_in_sentences(tree)
        pickling = _imported(tree) & {"pickle", "dill", "joblib", "cloudpickle"}
        found += [(1, f"imports {module}, which can run a stranger's code") for module in pickling]
    if Path(file).name in ("utils.py", "helpers.py", "common.py"):
        found.append((1, "a name that says nothing: name the file after what it holds"))
    return [f"{file}:{line}: {reason}" for line, reason in found]


@pytest.mark.parametrize("path", WITH_TESTS, ids=_name)
def test_file_keeps_the_rules(path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8"), _name(path)) == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("mx.set_wired_limit(1)", "memory/guard.py"),
        ("mx.metal.set_cache_limit(1)", "memory/guard.py"),
        ("mx.linalg.svd(a)", "stream=mx.cpu"),
        ("x.astype(mx.float64)", "Metal has no such type"),
        ("mx.device_info()['memory_size']", "use .get"),
        ("print('a')", "only the CLI"),
        ("load(p, trust_remote_code=True)", "stranger"),
        ("torch.load(p)", "stranger"),
        ("raise InputError(f'{a}: give another --out')", "names a --flag"),
        ("raise InputError(f'--model {a}: no such folder')", "names a --flag"),
        ('"""A policy (--scripts)."""', "names a --flag"),
        ("import pickle", "stranger"),
        ("from pickle import loads", "stranger"),
        ("\n" * 400 + "a = 1", "401 lines"),
        ("def f():\n" + "    a = 1\n" * 60, "61 lines"),
        ("def f(self, a, b, c, d, e, *, f, g): ...", "7 parameters"),
        ("@cached\ndef f(a, b, c, d, e, f, g): ...", "7 parameters"),
        ("StepSettings(1.0, 256, True)", "name them"),
        ("step.StepSettings(1.0, 256, True)", "name them"),
    ],
)
def test_the_rules_see_what_they_forbid(source: str, reason: str) -> None:
    assert any(reason in line for line in violations(source, "mlx_loopai/training/new.py"))


@pytest.mark.parametrize(("room", "may"), [("training", True), ("guards", False), ("data", False), ("memory", False)])
def test_only_rooms_that_know_a_run_take_its_whole_configuration(room: str, may: bool) -> None:
    for name in ("RunConfig", "RunContext"):
        found = violations(f"from mlx_loopai.somewhere import {name}", f"mlx_loopai/{room}/new.py")
        assert bool(found) is not may


@pytest.mark.parametrize(
    "source",
    [
        "mx.linalg.svd(a, stream=mx.cpu)",
        "@group.command('a')\ndef f(a, b, c, d, e, f, g): ...",
        "mx.device_info().get('a')",
        "torch.loads()",
        "run(['git', '--short'])",
        "CARD = '    mlx-loopai generate PROMPT --model BASE'",
        "STYLE = 'fill:var(--ink)'",
    ],
)
def test_the_rules_allow_the_right_form(source: str) -> None:
    assert violations(source, "mlx_loopai/training/new.py") == []
