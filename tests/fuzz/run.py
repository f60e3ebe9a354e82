"""Fuzzing by hand: so many inputs, over all targets, two or more of them at a time.

    python tests/fuzz/run.py --inputs 1000000
    python tests/fuzz/run.py --target tokens --seconds 600
    python tests/fuzz/run.py --target tokens --replay FILE

The engine is atheris, guided by coverage, where that is installed (pip install '.[fuzz]'); else changes by a seed.
Inputs that crash are kept in a folder, each with its traceback; then the exit status is 1.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

sys.path.append(str(Path(__file__).parents[1]))  # as pytest's conftest.py does

if TYPE_CHECKING:
    from fuzz.engine import Result  # what is imported now is not instrumented

FOREVER_S = 1e9
COLUMNS = "{:14}{:>11}{:>11}{:>10}{:>9}{:>9}"


def main() -> None:
    options = arguments()
    if options.worker:
        work(options)
    elif options.replay:
        replay(options.target, options.replay)
    else:
        sys.exit(run(options))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="over all targets (1,000,000)")
    parser.add_argument("--seconds", type=float, default=FOREVER_S, help="in all, at most (no limit)")
    parser.add_argument("--target", help="this one only")
    parser.add_argument("--seed", type=int, default=1, help="another one gives other inputs (1)")
    parser.add_argument("--crashes", type=Path, help="folder for inputs that crash (a temporary one)")
    parser.add_argument("--engine", choices=("atheris", "seeded"), help="(atheris where it is installed)")
    parser.add_argument("--replay", type=Path, help="an input that crashed")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def run(options: argparse.Namespace) -> int:
    """The exit status."""
    from fuzz.engine import has_atheris
    from fuzz.targets import TARGETS

    names = [options.target] if options.target else list(TARGETS)
    engine = options.engine or ("atheris" if has_atheris() else "seeded")
    folder = options.crashes or Path(tempfile.mkdtemp(prefix="multiarm-fuzz-"))
    processes = min(os.cpu_count() or 1, len(names))
    weights = sum(TARGETS[name].weight for name in names)
    say(f"engine {engine}, seed {options.seed}, {processes} processes; crashes go to {folder}\n")
    say(COLUMNS.format("target", "inputs", "inputs/s", "accepted", "crashes", "seconds"))
    start = time.monotonic()

    def one(name: str) -> "Result":
        inputs = max(round(options.inputs * TARGETS[name].weight / weights), 1)
        seconds = options.seconds * processes / len(names)
        limits = ["--inputs", inputs, "--seconds", seconds, "--seed", options.seed]
        result = in_a_process(name, *map(str, ["--engine", engine, *limits, "--crashes", folder]))
        say(row(result.target, result.inputs, result.accepted, len(result.findings), result.seconds))
        return result

    with ThreadPoolExecutor(processes) as threads:
        slowest_first = sorted(names, key=lambda name: TARGETS[name].weight)
        results = list(threads.map(one, slowest_first))
    inputs, accepted = sum(one.inputs for one in results), sum(one.accepted for one in results)
    findings = {name: said for one in results for name, said in one.findings.items()}
    say(row("all", inputs, accepted, len(findings), time.monotonic() - start))
    for name, said in findings.items():
        say(f"\n{folder / name}\n  {said}")
    return 1 if findings else 0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def row(name: str, inputs: int, accepted: int, crashes: int, seconds: float) -> str:
    share = f"{accepted / max(inputs, 1):.1%}"
    return COLUMNS.format(name, f"{inputs:,}", f"{inputs / max(seconds, 1e-9):,.0f}", share, crashes, f"{seconds:.1f}")


def in_a_process(name: str, *limits: str) -> "Result":
    """One target: atheris ends the process, and what it fuzzes may, too."""
    from fuzz.engine import Result

    with tempfile.TemporaryDirectory() as own:
        result, log = Path(own) / "result", Path(own) / "log"
        command = [sys.executable, __file__, "--worker", str(result), "--target", name, *limits]
        with log.open("wb") as file:
            environment = os.environ | {"TMPDIR": own}
            done = subprocess.run(command, stdout=file, stderr=file, env=environment, check=False)
        if result.exists():
            return msgspec.json.decode(result.read_bytes(), type=Result)
        said = log.read_text(errors="replace")[-2000:]
        return Result(name, 0, 0, 0.0, {f"{name}: the process ended with status {done.returncode}": said})


def work(options: argparse.Namespace) -> None:
    """In a process of its own: one target, by one engine."""
    from fuzz import engine

    guided = options.engine == "atheris"
    with engine.instrumented() if guided else nullcontext():
        from fuzz.targets import TARGETS

    def report(result: "Result") -> None:
        options.worker.write_bytes(msgspec.json.encode(result))

    target = TARGETS[options.target]
    limits = engine.Limits(options.seed, options.inputs, options.seconds, options.crashes)
    if guided:
        engine.guided(target, limits, report)
    else:
        report(engine.seeded(target, limits))


def replay(name: str, file: Path) -> None:
    """Raises what it raised."""
    from fuzz.targets import TARGETS

    with TARGETS[name].opened() as one:
        say("taken" if one(file.read_bytes()) else "refused")


if __name__ == "__main__":
    main()
