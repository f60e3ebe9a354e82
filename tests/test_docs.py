"""The documentation is true: every shell and Python block in README and docs runs, and prints what it says."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest

from multiarm.configuration import load_settings
from multiarm.domain.policies import AnyPolicy
from support import RunningServer, free_port

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = {"sh", "python", "toml"}
ATTEMPTS = 30
SHOWN = {"json", "text", "", "sql"}  # outputs and pictures; the ledger's tests run the SQL


class Block(NamedTuple):
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*match.groups()) for match in FENCE.finditer(page.read_text())]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with RunningServer(tmp_path_factory.mktemp("docs")) as running:
        yield running


class OtherArm(Exception):
    """By chance the page's draw gave another arm than the one that the page shows."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs_and_prints_what_it_says(page: Path, server: RunningServer, tmp_path: Path) -> None:
    for _ in range(ATTEMPTS):
        server.client().delete("/v1/clear").raise_for_status()
        with suppress(OtherArm):
            follow(page, server, tmp_path)
            return
    pytest.fail(f"{ATTEMPTS} times by chance another arm than the page shows")


def follow(page: Path, server: RunningServer, directory: Path) -> None:
    printed = ""
    for block in blocks(page):
        assert block.language in RUN | SHOWN, f"nobody checks a block of {block.language!r}"
        if block.language in RUN:
            printed = run(block, server, directory)
        elif block.language == "json":
            compare(json.loads(printed), json.loads(block.text))
        elif block.language == "text" and printed:
            assert printed == block.text
            printed = ""


def compare(actual: Any, shown: Any) -> None:
    """All that does not change from run to run is the same; OtherArm where chance decided otherwise."""
    if isinstance(shown, dict) and "decision_id" in shown:
        if actual["arm_id"] != shown["arm_id"]:
            raise OtherArm
        assert len(actual.pop("decision_id")) == len(shown.pop("decision_id"))
    assert masked(actual) == masked(shown)


def masked(value: Any) -> Any:
    """With numbers rounded to 12 digits: the last ones differ from machine to machine."""
    if isinstance(value, dict):
        return {name: masked(member) for name, member in value.items()}
    if isinstance(value, list):
        return [masked(member) for member in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


def run(block: Block, server: RunningServer, directory: Path) -> str:
    """What the block prints."""
    if block.language == "toml":
        file = directory / "multiarm.toml"
        file.write_text(block.text)
        load_settings(file, environment={})
        return ""
    if block.language == "python":
        return output([sys.executable, "-W", "error", "-c", block.text], directory)
    if block.text.startswith("make "):
        targets = [line.split()[1] for line in block.text.splitlines()]
        return output(["make", "--dry-run", *targets], ROOT)
    text = block.text.replace("http://127.0.0.1:8080", server.url).replace("8081", str(free_port()))
    return output(["bash", "-euo", "pipefail", "-c", text], directory)


def output(command: list[str], directory: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MULTIARM_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        command, cwd=directory, env=environment, text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_crash_page_tells_the_truth(tmp_path: Path, server: RunningServer) -> None:
    block = next(b for b in blocks(ROOT / "docs/durability.md") if "kill -9" in b.text)
    printed = run(block, server, tmp_path)
    assert printed.count('{"accepted":1,"duplicates":0}') == 1
    assert printed.count('{"accepted":0,"duplicates":1}') == 1
    assert "the books balance" in printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_readme_starts_with_the_two_commands() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:25])
    assert "make serve" in first_screen
    assert "make test" in first_screen


def test_the_policies_page_has_a_row_for_each_policy_and_what_each_costs() -> None:
    page = (ROOT / "docs/policies.md").read_text()
    costs = page[page.index("<!-- costs: begin -->") :]
    for kind in get_args(AnyPolicy):
        name = f"`{kind.__struct_config__.tag}`"
        assert f"| {name}" in costs, f"what {name} costs: make policy-costs"
        assert page.count(name) > costs.count(name), f"{name} is not explained"
