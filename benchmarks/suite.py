"""`make bench`: the whole table, the yardsticks, latency, growth and the cost in process."""

import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import msgspec

import growth
import latency
import machine
import many
import plots
import report
import works
from in_process import Cost
from processes import HERE, RESULTS, SERVER_CORE, TIED, Server, data_directory, multiarm
from rows import Row
from yardsticks import measure_yardsticks

START_RUNS = 3
YARDSTICK_RUNS, YARDSTICK_SECONDS = 3, 2
LATENCY_RUNS, LATENCY_SECONDS = 3, 2.0
BESIDE_RUNS, BESIDE_SECONDS = 5, 3.0
GROWTH_RUNS, GROWTH_SECONDS = 2, 1
COSTS_TIMEOUT_S = 120


class Sizes(NamedTuple):
    """How long the rows of the table are measured."""

    runs: int
    seconds: int


def everything(runs: int, seconds: int) -> int:
    """The exit status: 0 when all was measured, whatever it was."""
    began = time.monotonic()
    with report.status() as status:
        results = measured(Sizes(runs, seconds), status.update)
    report.write(results, RESULTS)
    plots.plot(results, RESULTS)
    report.show(*report.tables(results))
    report.print_notes(results.machine, report.NOTES, results.table)
    report.verdict(results.table, results.machine)
    took_s = time.monotonic() - began
    report.console.print(f"{took_s / 60:.1f} minutes. Tables, JSON and plots: benchmarks/results/")
    return 0


def measured(sizes: Sizes, say: works.Say) -> report.Results:
    with data_directory() as directory:
        described = machine.describe(directory)
        many_directory = directory / "many"
        many_directory.mkdir()
        with works.yardstick(directory) as bare, multiarm(directory) as server:
            works.create_bench(server)
            with growth.with_experiments(many_directory, runs=GROWTH_RUNS, seconds=GROWTH_SECONDS, say=say) as (
                server_of_many,
                curves,
            ):
                table = works.measure(all_works(bare, server, server_of_many), **sizes._asdict(), say=say)
            starts = many.starts(many_directory, START_RUNS, say)
            yardsticks = measure_yardsticks(directory, bare, runs=YARDSTICK_RUNS, seconds=YARDSTICK_SECONDS, say=say)
            beside, latencies = all_latencies(bare, server, table, say)
            curves += all_curves(server, say)
        return report.Results(
            machine=described,
            runs=sizes.runs,
            seconds=sizes.seconds,
            table=[*table, beside, *starts],
            yardsticks=yardsticks,
            latencies=latencies,
            curves=curves,
            costs=costs_in_process(say),
        )


def all_works(bare: Server, server: Server, server_of_many: Server) -> list[works.Work]:
    first = works.four_works(bare, server)
    return [*first, works.batch_work(server), *many.works_among_many(server_of_many, first[1].name)]


def all_latencies(bare: Server, server: Server, table: list[Row], say: works.Say) -> tuple[Row, list[latency.Latency]]:
    peaks = {row.work: statistics.median(row.values) for row in table}
    names = [row.work for row in table]
    at_shares = latency.at_shares(
        server, peaks[names[1]], peaks[names[3]], runs=LATENCY_RUNS, seconds=LATENCY_SECONDS, say=say
    )
    row, both = latency.beside_updates(server, runs=BESIDE_RUNS, seconds=BESIDE_SECONDS, say=say)
    generator = latency.of_generator(bare, runs=LATENCY_RUNS, seconds=LATENCY_SECONDS, say=say)
    return row, [*at_shares, *both, generator]


def all_curves(server: Server, say: works.Say) -> list[growth.Curve]:
    curves = []
    for with_size in (growth.with_arms, growth.with_connections, growth.with_batches):
        curves += with_size(server, runs=GROWTH_RUNS, seconds=GROWTH_SECONDS, say=say)
    return curves


def costs_in_process(say: works.Say) -> list[Cost]:
    """In a process of its own, pinned, when no server is left."""
    say("cost in process")
    run = subprocess.run(
        [*TIED, "taskset", "-c", SERVER_CORE, sys.executable, str(HERE / "in_process.py")],
        stdout=subprocess.PIPE,
        timeout=COSTS_TIMEOUT_S,
        check=True,
    )
    return msgspec.json.decode(run.stdout, type=list[Cost])
