"""Imports point down only, and the domain does no I/O, has no clock and no global randomness."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import multiarm

SOURCE = Path(multiarm.__file__).parent
EVERYTHING = None

# Which rooms (folders and modules right below `multiarm`) each room may import besides itself.
MAY_IMPORT: dict[str, set[str] | None] = {
    "_version": set(),
    "domain": set(),
    "lab": {"domain"},
    "storage": {"domain"},
    "service": {"domain", "storage"},
    "settings": set(),
    "configuration": {"domain", "settings"},
    "logs": set(),
    "auth": {"domain", "settings"},
    "http": {"auth", "domain", "service", "settings", "_version"},
    "authentication": {"auth", "domain", "service", "settings", "storage"},
    "__init__": {"domain", "_version"},
    "__main__": {"cli"},
    "tokens": {"auth", "authentication", "domain", "settings", "storage"},
    "audit_command": {"configuration", "domain", "logs", "storage"},
    "backup_commands": {"configuration", "storage"},
    "token_commands": {"configuration", "domain", "storage", "tokens"},
    "process": set(),
    "server": EVERYTHING,
    "demo": EVERYTHING,
    "cli": EVERYTHING,
}

NOT_IN_DOMAIN = {
    *("time", "random", "secrets", "asyncio", "threading", "multiprocessing", "concurrent", "subprocess"),
    *("socket", "ssl", "http", "urllib", "pathlib", "io", "shutil", "tempfile", "sqlite3"),
    *("logging", "structlog", "sqlalchemy", "alembic", "pyarrow", "litestar", "uvicorn", "httptools", "typer", "rich"),
}
CLOCK_OR_CHANCE = {"now", "utcnow", "today", "default_rng", "seed", "open", "print", "input", "getenv", "environ"}

Import = tuple[int, str]  # line, dotted name


def modules(folder: Path = SOURCE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def room(name: str) -> str:
    """The room of `multiarm.storage.schema`, say; names that the package itself exports live in `__init__`."""
    first = name.split(".")[1] if "." in name else "__init__"
    return first if (SOURCE / first).is_dir() or (SOURCE / f"{first}.py").is_file() else "__init__"


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[Import]:
    """Every import, those inside functions included; relative ones resolved."""
    package = ["multiarm", *path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def test_every_room_has_its_floor() -> None:
    assert {room_of(path) for path in modules()} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down_only(path: Path) -> None:
    here = room_of(path)
    allowed = MAY_IMPORT[here]
    wrong = [
        f"line {line}: {name}"
        for line, name in imports(path)
        if name.split(".")[0] == "multiarm" and allowed is not EVERYTHING and room(name) not in {here, *allowed}
    ]
    assert not wrong


@pytest.mark.parametrize("path", modules(SOURCE / "domain"), ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_domain_does_no_io_and_has_no_clock_and_no_chance_of_its_own(path: Path) -> None:
    foreign = [f"line {line}: {name}" for line, name in imports(path) if name.split(".")[0] in NOT_IN_DOMAIN]
    called = [
        f"line {node.lineno}: {ast.unparse(node.func)}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and last_name(node.func) in CLOCK_OR_CHANCE and not is_own_method(node.func)
    ]
    assert not foreign + called


@pytest.mark.parametrize("path", modules(SOURCE / "domain"), ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_domain_draws_from_no_generator_that_numpy_shares(path: Path) -> None:
    used = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith(("np.random.", "numpy.random."))
    }
    assert used <= {"np.random.Generator"}


@pytest.mark.parametrize("path", modules(SOURCE / "domain"), ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_domain_asks_the_system_for_nothing_but_keys(path: Path) -> None:
    used = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("os.")
    }
    assert used <= ({"os.urandom"} if path.name == "decision.py" else set())
    assert not {name for _, name in imports(path) if name.startswith("os.")}


def last_name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def is_own_method(function: ast.expr) -> bool:
    """`signer.open` opens a token and not a file."""
    return isinstance(function, ast.Attribute) and function.attr == "open"


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_domain_can_be_used_alone_without_the_server() -> None:
    heavy = ["litestar", "sqlalchemy", "pyarrow", "uvicorn", "structlog", "asyncio", "typer", "scipy"]
    code = f"""
import random, sys
from multiarm import Experiment, Thompson, Update
experiment = Experiment(Thompson(), ["red", "green"])
decision = experiment.draw(now=0.0, rng=random.Random(1))
experiment.update(Update(reward=1.0, decision_id=decision.decision_id), now=1.0)
assert experiment.pull_count == 1
print(*(name for name in {heavy} if name in sys.modules))
"""
    assert run(code).split() == []


def test_the_rules_above_would_notice() -> None:
    assert room("multiarm.storage.schema") == "storage"
    assert room("multiarm.Experiment") == room("multiarm") == "__init__"
    names = {name for _, name in imports(SOURCE / "domain" / "decision.py")}
    assert {"hmac", "struct", "multiarm.domain.errors.InvalidDecision"} <= names
    assert "scipy.special.stdtrit" in {name for _, name in imports(SOURCE / "domain" / "inference.py")}
