"""Runs a command with less than its user may do, as containers and systemd do: `confined.py KIND FOLDER COMMAND …`.

read-only: it can write to FOLDER and the null device, and nowhere else, whoever it is (Landlock).
no-write-execute: memory that it can write it cannot execute (as with MemoryDenyWriteExecute=yes).
Exit status 77 where this kernel cannot do that.
"""

import ctypes
import os
import struct
import sys
from typing import NoReturn

CANNOT = 77

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # of Landlock, on every architecture but alpha
WANTED_VERSION = 3  # the first that knows of truncating
WRITES = 0b111_1111_1111_0010  # to write, remove, make, move and truncate; not to execute or read
WRITE_FILE = 0b10
PATH_BENEATH = 1
NO_NEW_PRIVILEGES, SET_MDWE = 38, 65

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def make_read_only(folder: str) -> None:
    if libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1) < WANTED_VERSION:
        raise SystemExit(CANNOT)
    attributes = struct.pack("=Q", WRITES)
    ruleset = checked(libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    for path, rights in ((folder, WRITES), ("/dev/null", WRITE_FILE)):
        rule = struct.pack("=Qi", rights, os.open(path, os.O_PATH | os.O_CLOEXEC))
        checked(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, rule, 0))
    checked(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    checked(libc.syscall(RESTRICT_SELF, ruleset, 0))


def main() -> NoReturn:
    kind, folder, *command = sys.argv[1:]
    if sys.platform != "linux":
        raise SystemExit(CANNOT)
    if kind == "read-only":
        make_read_only(folder)
    elif libc.prctl(SET_MDWE, 1, 0, 0, 0) < 0:
        raise SystemExit(CANNOT)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
