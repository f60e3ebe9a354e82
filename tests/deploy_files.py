"""The files that run multiarm for real, read for the tests in tests/deploy."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = DEPLOY / "compose.yaml"
UNIT = DEPLOY / "multiarm.service"
OPERATIONS = ROOT / "docs" / "operations.md"
LONGEST_SHUTDOWN_S = 9  # of shutdown_timeout_s; test_names_and_numbers.py compares

Instruction = tuple[str, str]  # its name, and what follows


def documents(file: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document is not None]


def document(file: Path) -> Any:
    (only,) = documents(file)
    return only


def stages() -> list[list[Instruction]]:
    """The Dockerfile's instructions, a list for each FROM."""
    found: list[list[Instruction]] = []
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(str.strip, text.splitlines()):
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append((name, " ".join(rest.split())))
    return found


def image_variables() -> dict[str, str]:
    """The environment that the image gives."""
    return dict(pair.split("=", 1) for name, rest in stages()[-1] if name == "ENV" for pair in rest.split())


def unit() -> dict[str, list[str]]:
    """The unit's directives, each with its values in order."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, is_directive, value = line.partition("=")
        if is_directive and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def unit_variables() -> dict[str, str]:
    return dict(pair.split("=", 1) for value in unit()["Environment"] for pair in value.split())


def pod_template() -> Any:
    return document(KUBERNETES / "statefulset.yaml")["spec"]["template"]


def container() -> Any:
    (only,) = pod_template()["spec"]["containers"]
    return only
