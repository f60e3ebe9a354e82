"""The manifests: what they promise to the cluster, and what the server needs of it."""

import shutil
import subprocess
from typing import Any

import pytest
import yaml

from deploy_files import KUBERNETES, LONGEST_SHUTDOWN_S, container, document, image_variables, pod_template, stages
from multiarm.auth.key_source import shared_secret
from multiarm.domain.errors import StartError
from multiarm.http.routes import live, ready
from multiarm.settings import Settings


def kustomization() -> Any:
    return document(KUBERNETES / "kustomization.yaml")


def service() -> Any:
    return document(KUBERNETES / "service.yaml")


def mounted(name: str) -> tuple[Any, Any]:
    """A volume of the pod and where it is mounted."""
    (volume,) = [volume for volume in pod_template()["spec"]["volumes"] if volume["name"] == name]
    (mount,) = [mount for mount in container()["volumeMounts"] if mount["name"] == name]
    return volume, mount


def test_the_kustomization_names_every_manifest_but_the_example() -> None:
    there = {file.name for file in KUBERNETES.iterdir()}
    assert set(kustomization()["resources"]) == there - {"kustomization.yaml", "secret.example.yaml"}


def test_it_is_one_pod_over_one_volume() -> None:
    spec = document(KUBERNETES / "statefulset.yaml")["spec"]
    assert spec["replicas"] == 1
    (claim,) = spec["volumeClaimTemplates"]
    (mount,) = [mount for mount in container()["volumeMounts"] if mount["name"] == claim["metadata"]["name"]]
    assert ("VOLUME", mount["mountPath"]) in stages()[-1]
    assert image_variables()["MULTIARM_DATA_DIR"].startswith(mount["mountPath"] + "/")


def test_selectors_select_the_pod() -> None:
    labels = pod_template()["metadata"]["labels"]
    spec = document(KUBERNETES / "statefulset.yaml")["spec"]
    assert service()["spec"]["selector"] == spec["selector"]["matchLabels"] == labels
    assert spec["serviceName"] == service()["metadata"]["name"]


def test_nothing_is_privileged_and_the_root_is_read_only() -> None:
    pod, own = pod_template()["spec"]["securityContext"], container()["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert ("USER", f"{pod['runAsUser']}:{pod['runAsGroup']}") in stages()[-1]
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod_template()["spec"]["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod_template()["spec"])


def test_the_variables_of_services_are_not_taken_for_settings() -> None:
    assert pod_template()["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize(
    ("probe", "endpoint"), [("startupProbe", live), ("livenessProbe", live), ("readinessProbe", ready)]
)
def test_probes_ask_routes_that_there_are(probe: str, endpoint: Any) -> None:
    assert container()[probe]["httpGet"] == {"path": path_of(endpoint), "port": "http"}
    assert container()[probe].get("timeoutSeconds", 1) <= container()[probe]["periodSeconds"]


def path_of(endpoint: Any) -> str:
    (path,) = endpoint.paths
    return str(path)


def test_all_mean_the_same_port() -> None:
    (port,) = container()["ports"]
    (published,) = service()["spec"]["ports"]
    annotations = pod_template()["metadata"]["annotations"]
    assert port["name"] == published["targetPort"] == "http"
    assert str(port["containerPort"]) == annotations["prometheus.io/port"] == image_variables()["MULTIARM_PORT"]


def test_it_may_take_its_time_to_stop() -> None:
    assert pod_template()["spec"]["terminationGracePeriodSeconds"] > LONGEST_SHUTDOWN_S


def test_the_key_comes_from_a_secret_that_its_group_can_read() -> None:
    volume, mount = mounted("jwt")
    example = document(KUBERNETES / "secret.example.yaml")
    (variable,) = container()["env"]
    (key,) = example["stringData"]
    assert volume["secret"]["secretName"] == example["metadata"]["name"]
    assert volume["secret"]["defaultMode"] == 0o440
    assert mount["readOnly"] is True
    assert variable == {"name": "MULTIARM_JWT_SECRET_FILE", "value": f"{mount['mountPath']}/{key}"}
    context = pod_template()["spec"]["securityContext"]
    assert context["fsGroup"] == context["runAsGroup"]


def test_the_example_holds_no_secret_that_a_server_would_take(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("secret") / "jwt_secret"
    file.write_text(document(KUBERNETES / "secret.example.yaml")["stringData"]["jwt_secret"])
    with pytest.raises(StartError, match="too short"):
        shared_secret(Settings(jwt_secret_file=str(file)))


def test_it_asks_for_resources() -> None:
    resources = container()["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert "memory" in resources["limits"]


def test_kustomize_puts_it_together() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    made = {made["kind"]: made for made in yaml.safe_load_all(done.stdout)}
    assert set(made) == {"Service", "StatefulSet"}
    assert made["StatefulSet"]["spec"]["template"]["spec"] == pod_template()["spec"]
