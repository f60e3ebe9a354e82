"""A study on all cores: chunks of runs, each with a seed of its own, so that who computes them does not matter."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from typing import NamedTuple

import numpy as np

from multiarm.domain.errors import InvalidField
from multiarm.lab.results import Outcome, Result
from multiarm.lab.simulation import Curves, joined, play, runs_at_once
from multiarm.lab.study import Study

PROCESS_LIMIT = 256

Progress = Callable[[int, int], None]


class Chunk(NamedTuple):
    """Part of the runs of one policy."""

    position: int
    number: int
    runs: int


def simulate(study: Study, *, processes: int = 1, on_progress: Progress = lambda _done, _total: None) -> Result:
    """Play the study. on_progress: called with the experiments done and their total.

    processes: 1 plays in this process; more are started (a script needs the usual `if __name__ == "__main__"`) and have
    ended when this returns or raises. Raises InvalidField or InvalidRequest where the study does not fit.
    """
    study.check()
    if not 1 <= processes <= PROCESS_LIMIT:
        raise InvalidField("processes", f"Between 1 and {PROCESS_LIMIT}; got {processes}.")
    chunks = chunks_of(study)
    curves: dict[Chunk, Curves] = {}
    done, total = 0, study.runs * len(study.policies)
    on_progress(done, total)
    for chunk, part in played(study, chunks, min(processes, len(chunks))):
        curves[chunk] = part
        done += chunk.runs
        on_progress(done, total)
    outcomes = [
        Outcome(entry, study, joined([curves[chunk] for chunk in chunks if chunk.position == position]))
        for position, entry in enumerate(study.policies)
    ]
    return Result(study, tuple(outcomes))


def chunks_of(study: Study) -> list[Chunk]:
    size = runs_at_once(study)
    return [
        Chunk(position, number, min(size, study.runs - start))
        for position in range(len(study.policies))
        for number, start in enumerate(range(0, study.runs, size))
    ]


def play_chunk(study: Study, chunk: Chunk) -> Curves:
    seed = np.random.SeedSequence(study.seed, spawn_key=(chunk.position, chunk.number))
    return play(study, study.policies[chunk.position], chunk.runs, seed)


def played(study: Study, chunks: list[Chunk], processes: int) -> Iterator[tuple[Chunk, Curves]]:
    """In whatever order they are done."""
    if processes == 1:
        yield from ((chunk, play_chunk(study, chunk)) for chunk in chunks)
        return
    with workers(processes) as pool:
        futures = {pool.submit(play_chunk, study, chunk): chunk for chunk in chunks}
        for future in as_completed(futures):
            yield futures[future], future.result()


@contextmanager
def workers(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this one: when all is done, at a failure, at Ctrl-C, and when it is killed."""
    others = set(active_children())
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=begin) as pool:
        try:
            yield pool
        except BaseException:
            for process in set(active_children()) - others:
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def begin() -> None:
    """In a new process: Ctrl-C is the parent's business, and without a parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
