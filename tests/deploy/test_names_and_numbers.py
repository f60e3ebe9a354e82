"""What the files in deploy/ and the operations page say of the rest of the program is so."""

import base64
import json
import re
from pathlib import Path

import msgspec
import pytest

from deploy_files import (
    COMPOSE,
    DEPLOY,
    DOCKERFILE,
    LONGEST_SHUTDOWN_S,
    OPERATIONS,
    ROOT,
    container,
    document,
    documents,
    image_variables,
    unit_variables,
)
from multiarm import __version__
from multiarm.configuration import described, load_settings, settings_table
from multiarm.settings import Settings
from support import run_cli

METRICS = ROOT / "docs" / "metrics.md"
FILES = [DOCKERFILE, OPERATIONS, DEPLOY / "multiarm.service", *sorted(DEPLOY.rglob("*.yaml"))]
ALERTS = [
    "MultiarmDown",
    "MultiarmNotReady",
    "MultiarmStoreBusy",
    "MultiarmCommitSlow",
    "MultiarmLedgerBehind",
    "MultiarmExperimentQuarantined",
]
PARTS = ["What it means", "Look first", "Do", "Do not"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_variable_is_a_setting(file: Path) -> None:
    known = {row.environment for row in settings_table()}
    assert set(re.findall(r"MULTIARM_[A-Z0-9_]+", file.read_text())) <= known


def test_their_values_are_allowed() -> None:
    in_compose = document(COMPOSE)["services"]["multiarm"]["environment"]
    in_pod = {variable["name"]: variable["value"] for variable in container()["env"]}
    for environment in (image_variables() | in_compose, image_variables() | in_pod, unit_variables()):
        settings = load_settings(environment={name: value for name, value in environment.items() if "MULTIARM" in name})
        assert settings.key_sources == ["jwt_secret_file"]
        assert (settings.port, settings.log_format) == (8080, "json")


def test_the_longest_time_to_stop_is_known_to_the_other_tests() -> None:
    (field,) = [field for field in msgspec.structs.fields(Settings) if field.name == "shutdown_timeout_s"]
    assert described(field)[1].le == LONGEST_SHUTDOWN_S


def test_the_image_has_the_version_of_the_program() -> None:
    images = [document(COMPOSE)["services"]["multiarm"]["image"], container()["image"]]
    assert images == [f"multiarm:{__version__}"] * 2
    assert f"--tag multiarm:{__version__} ." in DOCKERFILE.read_text()


@pytest.mark.parametrize("file", sorted(DEPLOY.rglob("*.yaml")), ids=lambda file: file.name)
def test_every_file_is_yaml(file: Path) -> None:
    assert all(isinstance(found, dict) for found in documents(file))


@pytest.mark.parametrize("alert", ALERTS)
def test_the_operations_page_says_what_to_do_at_each_alert(alert: str) -> None:
    section = re.search(rf"^### {alert}\n(.*?)(?=^##|\Z)", OPERATIONS.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    assert re.findall(r"^\*\*([^*]+)\.\*\*", section[1], re.MULTILINE) == PARTS


def test_it_tells_of_no_other_alert_and_of_no_file_that_is_not_there() -> None:
    page = OPERATIONS.read_text()
    assert list(dict.fromkeys(re.findall(r"\bMultiarm\w+", page))) == ALERTS
    for name in re.findall(r"\bdeploy/[\w./-]*\w", page):
        assert (ROOT / name).exists() or name.startswith("deploy/secrets"), name


def test_every_log_event_that_it_names_is_one() -> None:
    source = "\n".join(file.read_text() for file in (ROOT / "src").rglob("*.py"))
    events = re.findall(r"`([a-z]+(?:_[a-z]+)+)` in the log", OPERATIONS.read_text())
    assert events
    assert {event for event in events if f'"{event}"' not in source} == set()


def test_every_setting_that_it_names_is_one() -> None:
    units = r"_(?:s|bytes|days|updates|rows|requests|limit|share)"
    named = set(re.findall(rf"`([a-z_]+{units})`", OPERATIONS.read_text()))
    assert named
    assert named <= set(Settings.__struct_fields__)


def test_kubectl_goes_to_the_namespace_that_the_page_has_made() -> None:
    page = OPERATIONS.read_text()
    made, rest = page.split("kubectl create namespace experiments\n", 1)
    assert "kubectl " not in re.sub(r"`kubectl[^`]*`", "", made)
    assert rest.startswith("kubectl config set-context --current --namespace experiments\n")
    assert "kubectl --namespace" not in rest


def test_prometheus_scrapes_by_the_name_that_the_alerts_ask_for() -> None:
    page = METRICS.read_text()
    alerts = (DEPLOY / "prometheus" / "alerts.yaml").read_text()
    (job,) = re.findall(r"job_name: (\w+)", page)
    assert set(re.findall(r'job="(\w+)"', alerts)) == {job}
    assert f'absent(up{{job="{job}"}})' in alerts


def test_the_scrapers_token_lives_for_long_and_no_longer_than_the_server_allows() -> None:
    (command,) = re.findall(r"^ +multiarm (token --subject prometheus .*?)(?: >|$)", METRICS.read_text(), re.MULTILINE)
    done = run_cli(*command.split(), settings={"jwt_secret": "a secret of no fewer than 32 bytes"})
    assert done.returncode == 0, done.stderr
    claims = json.loads(base64.urlsafe_b64decode(done.stdout.split(".")[1] + "=="))
    assert claims["scope"] == "read"
    assert claims["exp"] - claims["iat"] >= 180 * 86_400
