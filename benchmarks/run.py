"""The benchmarks of multiarm.

quick   the first four rows of the table, under a minute; exit status 1 where one falls under its floor
all     everything but the soak, under ten minutes; tables, JSON and plots go to benchmarks/results/
soak    mixed full load; exit status 1 where memory grows or the ledger misses a row
"""

import argparse
import os
import shutil
import sys

import machine
import processes
import report
import soak
import suite
import works

QUICK_RUNS, QUICK_SECONDS = 3, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quick", "all", "soak"))
    parser.add_argument("--minutes", type=float, default=10, help="how long to soak (10)")
    parser.add_argument("--runs", type=int, default=5, help="of each row of the table of `all` (5)")
    parser.add_argument("--seconds", type=int, default=5, help="each of those runs (5)")
    options = parser.parse_args()
    require_tools(*(("taskset", "setpriv") if options.what == "soak" else ("taskset", "setpriv", "wrk")))
    processes.end_on_sigterm()
    if options.what == "soak":
        sys.exit(soak.soak(options.minutes))
    sys.exit(quick() if options.what == "quick" else suite.everything(options.runs, options.seconds))


def require_tools(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        sys.exit(f"Not installed: {', '.join(missing)}. On Debian: apt-get install util-linux wrk")
    if not {int(processes.SERVER_CORE), int(processes.LOAD_CORE)} <= os.sched_getaffinity(0):
        sys.exit("The server and the load need a core each, numbers 0 and 1.")


def quick() -> int:
    """The exit status."""
    with (
        processes.data_directory() as directory,
        works.yardstick(directory) as bare,
        processes.multiarm(directory) as server,
        report.status() as status,
    ):
        described = machine.describe(directory)
        works.create_bench(server)
        rows = works.measure(works.four_works(bare, server), runs=QUICK_RUNS, seconds=QUICK_SECONDS, say=status.update)
    title = f"multiarm: medians of {QUICK_RUNS} runs of {QUICK_SECONDS} s"
    report.show(report.rows_table(title, rows, described))
    report.print_notes(described, report.RATIOS, rows)
    return report.verdict(rows, described)


if __name__ == "__main__":
    main()
