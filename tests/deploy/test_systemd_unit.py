"""The unit for systemd: what systemd itself says of it, and what it keeps from the server."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy_files import LONGEST_SHUTDOWN_S, UNIT, unit, unit_variables

LEAST_SYSTEMD = 250  # %d, and `security --offline`
ON = (
    *("DynamicUser", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateUsers", "NoNewPrivileges", "ProtectClock"),
    *("ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables"),
    *("RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "MemoryDenyWriteExecute"),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The unit, with the command where it is on this machine: `verify` looks whether it can be run."""
    command = Path(sys.executable).with_name("multiarm")
    changed = tmp_path / UNIT.name
    changed.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={command}", UNIT.read_text()))
    return changed


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    said = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    version = int(said.split()[1])
    if version < LEAST_SYSTEMD:
        pytest.skip(f"systemd {version} is older than {LEAST_SYSTEMD}")
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def test_systemd_finds_nothing_wrong(file: Path) -> None:
    done = analyze("verify", file)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_would_find_a_wrong_word(file: Path) -> None:
    file.write_text(file.read_text().replace("ProtectSystem=strict", "ProtectSystem=stricter"))
    assert "stricter" in analyze("verify", file).stderr


def test_systemd_rates_its_exposure_as_low(file: Path) -> None:
    done = analyze("security", "--offline=true", "--threshold=20", file)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ON)
def test_it_is_hardened(name: str) -> None:
    assert unit()[name] == ["yes"]


def test_it_may_write_to_its_state_alone() -> None:
    assert unit()["ProtectSystem"] == ["strict"]
    assert unit()["StateDirectory"] == ["multiarm"]
    assert unit()["UMask"] == ["0077"]
    assert unit_variables()["MULTIARM_DATA_DIR"].startswith("%S/multiarm/")
    assert not {"ReadWritePaths", "BindPaths"} & set(unit())


def test_it_has_no_capabilities_and_few_system_calls() -> None:
    assert unit()["CapabilityBoundingSet"] == unit()["AmbientCapabilities"] == [""]
    assert unit()["SystemCallFilter"] == ["@system-service", "~@privileged"]
    assert unit()["RestrictAddressFamilies"] == ["AF_INET AF_INET6 AF_UNIX"]


def test_the_key_is_a_credential() -> None:
    ((name, source),) = [value.split(":") for value in unit()["LoadCredential"]]
    assert unit_variables()["MULTIARM_JWT_SECRET_FILE"] == f"%d/{name}"
    assert source.startswith("/etc/multiarm/")


def test_it_listens_on_loopback_alone() -> None:
    assert unit_variables()["MULTIARM_HOST"] == "127.0.0.1"


def test_it_may_take_its_time_to_stop_and_always_starts_again() -> None:
    assert int(*unit()["TimeoutStopSec"]) > LONGEST_SHUTDOWN_S
    assert unit()["Restart"] == ["always"]
    assert unit()["StartLimitIntervalSec"] == ["0"]
