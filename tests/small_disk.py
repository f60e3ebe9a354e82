"""A disk that is soon full: a small tmpfs where that is allowed, else a limit on the size of files."""

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest


class SmallDisk:
    """A directory whose disk can be filled and emptied."""

    def __init__(self, path: Path, limits_files: bool) -> None:
        self.path = path
        self._limits_files = limits_files
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        if self._limits_files:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, self._limits[1]))
            return
        with (self.path / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while filler.write(bytes(4_096)):
                pass

    def empty(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)
        (self.path / "filler").unlink(missing_ok=True)


@pytest.fixture(params=["full disk", "file size limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path, limits_files=request.param == "file size limit")
    if request.param == "full disk":
        mounting = [shutil.which("mount") or "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
        try:
            subprocess.run(mounting, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting a tmpfs takes root; the file size limit stands in for it")
    yield small
    small.empty()
    if request.param == "full disk":
        subprocess.run([shutil.which("umount") or "umount", "-l", str(tmp_path)], check=True)
