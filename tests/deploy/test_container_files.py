"""Dockerfile and compose file: what they promise, and the health check run for real."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy_files import COMPOSE, DOCKERFILE, LONGEST_SHUTDOWN_S, ROOT, document, image_variables, stages
from support import RunningServer, environment
from wire_servers import wait_until

SECRET = "a secret of no fewer than 32 bytes"


def of_final_stage(name: str) -> str:
    (rest,) = [rest for given, rest in stages()[-1] if given == name]
    return rest


def service() -> Any:
    return document(COMPOSE)["services"]["multiarm"]


class TestDockerfile:
    def test_the_image_holds_what_the_wheel_brings_and_no_source(self) -> None:
        build, final = stages()
        assert re.fullmatch(r"python:3\.\d+-slim-\w+ AS build", build[0][1])
        assert build[0][1].removesuffix(" AS build") == final[0][1]
        copied = [rest for name, rest in final if name in ("COPY", "ADD")]
        assert copied == ["--from=build /opt/multiarm /opt/multiarm"]
        assert "/wheels/multiarm-*.whl" in dict(build)["RUN"]
        assert "--constraint constraints.txt" in dict(build)["RUN"]

    def test_what_the_build_reads_passes_dockerignore(self) -> None:
        lines = (ROOT / ".dockerignore").read_text().splitlines()
        allowed = {line[1:] for line in lines if line.startswith("!")}
        assert "*" in lines
        copied = [word for name, rest in stages()[0] if name == "COPY" for word in rest.split()[:-1]]
        assert allowed == set(copied)
        assert all((ROOT / name).exists() for name in copied)

    def test_it_runs_as_a_user_that_is_not_root_by_number(self) -> None:
        user, group = of_final_stage("USER").split(":")
        assert int(user) > 0
        assert int(group) > 0
        made = of_final_stage("RUN")
        assert f"--uid {user}" in made
        assert f"--gid {group}" in made

    def test_it_is_pid_1_and_gets_the_signals(self) -> None:
        assert json.loads(of_final_stage("ENTRYPOINT")) == ["multiarm"]
        assert json.loads(of_final_stage("CMD")) == ["serve"]

    def test_the_data_is_in_a_folder_of_the_volume(self) -> None:
        assert Path(image_variables()["MULTIARM_DATA_DIR"]).parent == Path(of_final_stage("VOLUME"))

    def test_its_port_is_the_one_it_exposes(self) -> None:
        assert image_variables()["MULTIARM_PORT"] == of_final_stage("EXPOSE")

    def test_it_has_no_key_of_its_own(self) -> None:
        assert image_variables()["MULTIARM_HOST"] == "0.0.0.0"
        assert "MULTIARM_ALLOW_ANONYMOUS" not in DOCKERFILE.read_text()
        assert "JWT" not in "".join(image_variables())


class TestHealthCheck:
    def check(self, port: int) -> int:
        command = json.loads(of_final_stage("HEALTHCHECK").partition("CMD ")[2])
        assert command[0] == "python"
        done = subprocess.run(
            [sys.executable, *command[1:]],
            env=environment({"port": port}),
            capture_output=True,
            timeout=20,
            check=False,
        )
        return done.returncode

    def test_it_tells_a_server_that_answers_from_one_that_is_gone(self, tmp_path: Path) -> None:
        with RunningServer(tmp_path / "data", settings={"jwt_secret": SECRET}) as server:
            port = server.client().base_url.port
            assert port is not None
            assert self.check(port) == 0
            assert server.terminate() == 0
            assert self.check(port) == 1

    def test_one_that_lives_and_is_not_ready_is_not_healthy(self, tmp_path: Path) -> None:
        """So `compose up --wait` does not return while experiments are loaded."""
        settings = {"jwt_secret": SECRET, "shutdown_delay_s": 60}
        with RunningServer(tmp_path / "data", settings=settings) as server, server.client() as client:
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: client.get("/health/ready").status_code == 503, "it is ready while it stops")
            assert client.get("/health/live").status_code == 200
            assert self.check(client.base_url.port or 0) == 1
            server.kill()

    def test_compose_and_the_image_have_the_same(self) -> None:
        assert "healthcheck" not in service()

    def test_its_time_is_bounded(self) -> None:
        options = dict(re.findall(r"--([\w-]+)=(\d+)", of_final_stage("HEALTHCHECK")))
        assert int(options["timeout"]) < int(options["interval"])


class TestCompose:
    def test_the_root_is_read_only_and_nothing_is_privileged(self) -> None:
        assert service()["read_only"] is True
        assert service()["cap_drop"] == ["ALL"]
        assert service()["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "cap_add", "user", "network_mode", "devices"} & set(service())

    def test_the_key_comes_from_a_secret_that_is_in_no_repository(self) -> None:
        (name,) = service()["secrets"]
        assert service()["environment"]["MULTIARM_JWT_SECRET_FILE"] == f"/run/secrets/{name}"
        file = document(COMPOSE)["secrets"][name]["file"]
        assert f"deploy/{Path(file).parent}/" in (ROOT / ".gitignore").read_text().splitlines()
        assert not is_tracked(COMPOSE.parent / file)

    def test_the_data_outlives_the_container(self) -> None:
        (mount,) = service()["volumes"]
        volume, where = mount.split(":")
        assert volume in document(COMPOSE)["volumes"]
        assert where == of_final_stage("VOLUME")

    def test_it_listens_on_loopback_at_the_port_of_the_image(self) -> None:
        (published,) = service()["ports"]
        assert published == f"127.0.0.1:8080:{of_final_stage('EXPOSE')}"

    def test_it_may_take_its_time_to_stop_and_starts_again(self) -> None:
        assert int(service()["stop_grace_period"].removesuffix("s")) > LONGEST_SHUTDOWN_S
        assert service()["restart"] == "unless-stopped"

    def test_it_is_built_from_the_checkout(self) -> None:
        assert (COMPOSE.parent / service()["build"]).resolve() == ROOT


def is_tracked(file: Path) -> bool:
    return bool(subprocess.check_output(["git", "-C", str(ROOT), "ls-files", "--", str(file)]))


def container_tool() -> str:
    """docker or podman, where it can run something; else the test is skipped, and says why."""
    reasons = []
    for tool in ("docker", "podman"):
        if shutil.which(tool) is None:
            reasons.append(f"{tool} is not installed")
            continue
        asked = subprocess.run([tool, "info"], capture_output=True, text=True, timeout=30, check=False)
        if asked.returncode == 0:
            return tool
        reasons.append(f"{tool} cannot run: {asked.stderr.strip().splitlines()[-1:]}")
    pytest.skip("; ".join(reasons))


def test_the_image_builds_and_serves_with_a_read_only_root(tmp_path: Path) -> None:
    tool = container_tool()
    image, name = "multiarm-test", f"multiarm-test-{tmp_path.name}"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=900, check=False)

    built = run("build", "--tag", image, str(ROOT))
    assert built.returncode == 0, built.stderr
    refused = run("run", "--rm", image)
    assert refused.returncode == 2
    assert "without authentication" in refused.stderr
    confined = ("--read-only", "--tmpfs", "/tmp:size=64m", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
    started = run("run", "--detach", "--name", name, "--env", f"MULTIARM_JWT_SECRET={SECRET}", *confined, image)
    try:
        assert started.returncode == 0, started.stderr
        check = json.loads(of_final_stage("HEALTHCHECK").partition("CMD ")[2])
        answered = any(run("exec", name, *check).returncode == 0 for _ in range(60))
        assert answered, run("logs", name)
        assert run("exec", name, "multiarm", "token", "--subject", "a", "--scope", "read").returncode == 0
        assert run("stop", "--time", "15", name).returncode == 0
        assert run("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip() == "0"
    finally:
        run("rm", "--force", "--volumes", name)
