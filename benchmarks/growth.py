"""How cost grows: with experiments, arms, connections and the size of batches."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

import many
from processes import Server
from works import BATCH_CONNECTIONS, BENCH, Say, Work, run_once

EXPERIMENT_COUNTS = (100, 1_000, many.EXPERIMENTS)
ARM_COUNTS = (2, 5, 20, 100, 1_000)
CONNECTION_COUNTS = (1, 8, 64, 256, 512)  # 512: servers have at least 1,024 file descriptors
BATCH_SIZES = (1, 10, 100, 1_000, 10_000)


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured at each size, run by run."""

    work: str
    unit: str
    size: str
    sizes: list[int]
    values: list[list[float]]


@contextmanager
def with_experiments(directory: Path, *, runs: int, seconds: int, say: Say) -> Iterator[tuple[Server, list[Curve]]]:
    """Curves over the number of experiments; the server with most of them stays up within the context."""
    rates, start_s, memory_mb = [], [], []
    before = 0
    for count in EXPERIMENT_COUNTS:
        say(f"creating {count:,} experiments")
        many.create(directory, before + 1, count)
        before = count
        with many.server_of_many(directory) as server:
            start_s.append([server.started_s])
            memory_mb.append([server.resident_mb()])
            many.draw_each(server, count)
            spread = Work("draw", server, "/", "spread.lua", (count,))
            say(f"growth: draws over {count:,} experiments")
            rates.append([run_once(spread, seconds).rate for _ in range(runs)])
            if count == EXPERIMENT_COUNTS[-1]:
                curves = zip(
                    ("draw over all", "start to the first answer", "memory then"),
                    ("requests/s", "s", "MB"),
                    (rates, start_s, memory_mb),
                    strict=True,
                )
                yield (
                    server,
                    [
                        Curve(work=work, unit=unit, size="experiments", sizes=list(EXPERIMENT_COUNTS), values=values)
                        for work, unit, values in curves
                    ],
                )


def with_arms(server: Server, *, runs: int, seconds: int, say: Say) -> list[Curve]:
    for count in ARM_COUNTS:
        arms = [f"arm-{number}" for number in range(1, count + 1)]
        server.call("POST", "/v1/create", {"experiment_id": f"arms-{count}", "arms": arms})
    return [
        curve(
            "draw",
            "arms",
            ARM_COUNTS,
            lambda count: Work("draw", server, f"/v1/arms-{count}/draw"),
            runs=runs,
            seconds=seconds,
            say=say,
        )
    ]


def with_connections(server: Server, *, runs: int, seconds: int, say: Say) -> list[Curve]:
    works = [
        Work("draw", server, f"{BENCH}/draw"),
        Work("update", server, f"{BENCH}/update", "update.lua", updates_per_answer=1),
        Work("draw, then its update", server, BENCH, "turn.lua"),
    ]

    def with_count(work: Work, count: int) -> Work:
        return work._replace(connections=count)

    return [
        curve(
            work.name,
            "connections",
            CONNECTION_COUNTS,
            partial(with_count, work),
            runs=runs,
            seconds=seconds,
            say=say,
        )
        for work in works
    ]


def with_batches(server: Server, *, runs: int, seconds: int, say: Say) -> list[Curve]:
    """Of updates to arms by name, of ten kinds or all different, and of updates with keys that must be looked up."""

    def plain(size: int) -> Work:
        return Work(
            "update_batch",
            server,
            f"{BENCH}/update_batch",
            "batch.lua",
            (size,),
            BATCH_CONNECTIONS,
            updates_per_answer=size,
            unit="updates/s",
        )

    def different(size: int) -> Work:
        return plain(size)._replace(name="update_batch, no two alike", arguments=(size, "different"))

    def keyed(size: int) -> Work:
        word = f"{time.time_ns():x}-"  # read anew before each run
        return plain(size)._replace(name="update_batch, each with a key", script="keyed.lua", arguments=(size, word))

    return [
        curve(plain(1).name, "size of batches", BATCH_SIZES, plain, runs=runs, seconds=seconds, say=say),
        curve(different(1).name, "size of batches", BATCH_SIZES, different, runs=runs, seconds=seconds, say=say),
        curve(keyed(1).name, "size of batches", BATCH_SIZES, keyed, runs=runs, seconds=seconds, say=say),
    ]


def curve(
    name: str,
    size: str,
    sizes: Sequence[int],
    work_of: Callable[[int], Work],
    *,
    runs: int,
    seconds: int,
    say: Say,
) -> Curve:
    """All sizes once, then all again: what is noise then looks like noise, and not like growth."""
    values: list[list[float]] = [[] for _ in sizes]
    for _ in range(runs):
        for index, count in enumerate(sizes):
            say(f"growth: {name}, {count:,} {size}")
            work = work_of(count)
            values[index].append(run_once(work, seconds).rate * work.factor)
    return Curve(work=name, unit=work_of(sizes[0]).unit, size=size, sizes=list(sizes), values=values)
