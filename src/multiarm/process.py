"""What a server asks of its process: before its threads are there, and once everything is built."""

import contextlib
import ctypes
import gc
import os
import resource
import sys

import pyarrow as pa

MOST_OPEN_FILES = 1 << 20
GC_THRESHOLD = 50_000  # requests leave few cycles behind; looking for them at every 700th object costs them 5 %
SWITCH_INTERVAL_S = 0.0005  # how long a thread may keep the loop waiting for the interpreter
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of glibc's malloc.h
LARGE_BYTES = 1 << 20


def prepare() -> None:
    os.umask(0o077)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    allow_many_connections()
    share_memory()
    pa.set_memory_pool(pa.system_memory_pool())  # its own pool keeps more than it uses


def settle() -> None:
    """What there is now stays: nobody need look for cycles in it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def allow_many_connections() -> None:
    """Shells give a process 1,024 open files, for old programs' sake; it may have as many as the hard limit says."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def share_memory() -> None:
    """One heap for all threads, where glibc gives each its own: what one frees is warm for the next, +7 % updates.

    What is large stays out of it, and leaves no holes there.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
