"""The data directory: locked by the one server that uses it, and named by its node id."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from multiarm.domain.errors import StartError

DATABASE_FILE = "multiarm.db"
LOCK_FILE = "lock"
NODE_FILE = "node"
COPY_FILE = "copy.db"  # a backup or a restore, until it is known to be good
NO_NODE = 1 << 64


class DataDirectory:
    """Holds the lock from construction until `close`. StartError where another process has it, or it cannot be used.

    StartError too where a restore was cut off or the database is gone, for a server would begin there with nothing,
    unless one `takes_over`.
    The directory is 0700: who reads the database can forge rewards.
    """

    def __init__(self, path: Path, *, create: bool = True, takes_over: bool = False) -> None:
        self.path = path
        if not create and not (path / LOCK_FILE).exists():
            raise StartError(f"{path} is not a data directory of multiarm.")
        if not (path / LOCK_FILE).exists() and is_used(path):
            raise StartError(f"{path} is not empty, and no data directory of multiarm; choose another --data-dir.")
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
            self._lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StartError(f"The data directory {path} cannot be used: {error.strerror}.") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._lock)
            raise StartError(
                f"The data directory {path} is in use by process {owner}; stop it, or choose another --data-dir."
            ) from None
        self._directory = os.open(path, os.O_RDONLY)
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
            if not takes_over:
                self._require_database()
            self.node = self._load_node()
        except OSError as error:
            self.close()
            raise StartError(f"The data directory {path} cannot be written: {error.strerror}.") from None
        except StartError:
            self.close()
            raise

    @property
    def database(self) -> Path:
        return self.path / DATABASE_FILE

    @property
    def ledger(self) -> Path:
        return self.path / "ledger"

    def adopt(self, node: int) -> None:
        """Be this node from the next start on."""
        file = self.path / NODE_FILE
        made = file.with_suffix(".new")
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
            opened.write(f"{node}\n")
            opened.flush()
            os.fsync(opened.fileno())
        made.replace(file)
        os.fsync(self._directory)

    def close(self) -> None:
        os.close(self._directory)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def _require_database(self) -> None:
        """Or a first start that was cut off: the node's number comes first, then the database, then the ledger."""
        if self.database.exists() and self.database.stat().st_size:
            return
        if (self.path / NODE_FILE).exists() and self.ledger.exists():
            raise StartError(
                f"{self.path} holds a ledger, but no database ({DATABASE_FILE}): it was removed, and a server would "
                "begin with nothing. Put it back; or restore a backup, with `multiarm restore FILE --data-dir` and a "
                f"new directory; or remove {self.path} to begin with nothing."
            )
        if (self.path / COPY_FILE).exists():
            raise StartError(
                f"{self.path} holds no database, but a copy that was cut off: run the same `multiarm restore` again, "
                "or remove the directory to begin with nothing."
            )

    def _load_node(self) -> int:
        """This directory's random 64-bit number, made at first use."""
        file = self.path / NODE_FILE
        try:
            node = int(file.read_text())
        except FileNotFoundError:
            node = int.from_bytes(os.urandom(8), signed=True)
            self.adopt(node)
        except ValueError:
            node = NO_NODE
        if not -(1 << 63) <= node < 1 << 63:
            raise StartError(f"The node id in {file} is damaged; restore the file from a backup.")
        return node


def is_used(path: Path) -> bool:
    """Whether there is something in it already."""
    try:
        return any(path.iterdir())
    except OSError:  # not there, or no directory: what comes next says so
        return False


def sync(path: Path) -> None:
    """Make a file, or the names in a directory, survive a loss of power."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
