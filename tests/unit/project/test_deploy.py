# SPDX-License-Identifier: Apache-2.0
"""The manifests: what kustomize makes of them is what Kubernetes takes, and fits together and the code."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import podtally
from podtally import config
from podtally.kernel.capabilities import CAPABILITIES, RUNNING
from podtally.kernel.flow_programs import TIMEOUT_SECONDS
from podtally.kernel.tracepoints import TRACEFS

DEPLOY = Path(__file__).parents[3] / "deploy"
OVERLAYS = ("plain", "prometheus-operator", "openshift", "kind", "k3s")
BEHIND_PROXY = "prometheus-operator behind kube-rbac-proxy"
# The first with a container's appArmorProfile; the last that the schemas have.
VERSIONS = ("1.30", "1.37")
CUSTOM = {"PodMonitor", "PrometheusRule", "SecurityContextConstraints"}  # no schema at hand
NOT_NAMESPACED = {"Namespace", "ClusterRole", "ClusterRoleBinding", "SecurityContextConstraints"}

Json = dict[str, Any]


class Built:
    """All objects of an overlay."""

    def __init__(self, objects: list[Json]) -> None:
        self.objects = objects

    def one(self, kind: str, name: str = "podtally") -> Json:
        named = (kind, name)
        (found,) = (o for o in self.objects if (o["kind"], o["metadata"]["name"]) == named)
        return found

    def has(self, kind: str, name: str) -> bool:
        return (kind, name) in {(o["kind"], o["metadata"]["name"]) for o in self.objects}

    @property
    def pod(self) -> Json:
        spec: Json = self.one("DaemonSet")["spec"]["template"]["spec"]
        return spec

    @property
    def agent(self) -> Json:
        (found,) = (c for c in self.pod["containers"] if c["name"] == "podtally")
        container: Json = found
        return container

    def settings(self, folder: Path) -> config.Config:
        (text,) = self.one("ConfigMap")["data"].values()
        (folder / "podtally.yaml").write_text(text)
        return config.load(folder / "podtally.yaml", {})


def kustomize(folder: Path) -> Built:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl")
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "kustomize warns of what is deprecated"
    return Built([each for each in yaml.safe_load_all(done.stdout) if each])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    made = {name: kustomize(DEPLOY / "overlays" / name) for name in OVERLAYS}
    return made | {BEHIND_PROXY: kustomize_behind_proxy(tmp_path_factory.mktemp("own"))}


def kustomize_behind_proxy(own: Path) -> Built:
    """An overlay of a user: the operator's, with the component."""
    shutil.copytree(DEPLOY, own / "deploy")
    (own / "deploy/overlays/own").mkdir()
    (own / "deploy/overlays/own/kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        "resources: [../prometheus-operator]\ncomponents: [../../components/kube-rbac-proxy]\n"
    )
    return kustomize(own / "deploy/overlays/own")


@pytest.fixture(params=[*OVERLAYS, BEHIND_PROXY])
def overlay(request: pytest.FixtureRequest, built: dict[str, Built]) -> Built:
    return built[request.param]


def refused(document: Json, version: str) -> str:
    """What the API server's schema says against it; unknown fields as well."""
    schemas = pytest.importorskip("kubernetes_validate")
    try:
        assert schemas.validate(document, version, strict=True) == version
    except schemas.ValidationError as error:
        return f"{document['kind']}: {'.'.join(map(str, error.path))}: {error.message}"
    return ""


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_object(overlay: Built, version: str) -> None:
    kinds = {each["kind"] for each in overlay.objects}
    assert {"Namespace", "DaemonSet", "ConfigMap", "ClusterRole"} <= kinds
    result = [refused(each, version) for each in overlay.objects if each["kind"] not in CUSTOM]
    assert [each for each in result if each] == []


def test_the_schemas_do_refuse(built: dict[str, Built]) -> None:
    daemonset = yaml.safe_load(yaml.safe_dump(built["plain"].one("DaemonSet")))
    daemonset["spec"]["template"]["spec"]["hostNetworks"] = True
    assert "hostNetworks" in refused(daemonset, VERSIONS[-1])


def test_all_is_in_one_namespace(overlay: Built) -> None:
    for each in overlay.objects:
        wanted = None if each["kind"] in NOT_NAMESPACED else "podtally"
        assert each["metadata"].get("namespace") == wanted, each["kind"]
    labels = overlay.one("Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"


def test_the_account_has_the_role(overlay: Built) -> None:
    assert overlay.has("ServiceAccount", overlay.pod["serviceAccountName"])
    for each in overlay.objects:
        for subject in each.get("subjects", ()):
            assert overlay.has("ServiceAccount", subject["name"])
            assert subject["namespace"] == "podtally"


def test_an_agent_is_on_every_node(overlay: Built) -> None:
    pod, strategy = overlay.pod, overlay.one("DaemonSet")["spec"]["updateStrategy"]
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert strategy["type"] == "RollingUpdate"
    assert "maxSurge" not in strategy["rollingUpdate"]  # two agents cannot share a pin directory
    assert overlay.agent["image"].rpartition("/")[2] == f"podtally:{podtally.__version__}"


def test_the_rights_are_the_least(overlay: Built) -> None:
    rights = overlay.agent["securityContext"]
    given = {f"CAP_{name}" for name in rights["capabilities"]["add"]}
    assert rights["capabilities"]["drop"] == ["ALL"]
    assert {each.name for each in CAPABILITIES if each.needed} <= given
    assert given == {each.name for each in CAPABILITIES}
    assert given - RUNNING == {"CAP_PERFMON"}
    assert (rights["allowPrivilegeEscalation"], rights["readOnlyRootFilesystem"]) == (False, True)
    assert "privileged" not in rights
    assert overlay.pod["hostPID"]
    assert overlay.pod["hostNetwork"]
    assert "hostIPC" not in overlay.pod


def test_every_volume_is_mounted_and_no_more_of_the_host(overlay: Built) -> None:
    pod, mounts = overlay.pod, overlay.agent["volumeMounts"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert [mount["name"] for mount in mounts] == list(volumes)
    host = {v["hostPath"]["path"] for v in volumes.values() if "hostPath" in v}
    assert host == {
        str(config.DEFAULT_PIN_DIR.parent),
        str(config.DEFAULT_STATE_DIR),
        str(config.Config().history.file.parent),
        str(config.DEFAULT_POD_LOGS),
        "/sys/fs/cgroup",
        "/run/netns",
        str(TRACEFS[0]),
    }
    written = {mount["name"] for mount in mounts if not mount.get("readOnly")}
    assert written == {"tmp", "bpffs", "state", "history"}
    assert {v["configMap"]["name"] for v in volumes.values() if "configMap" in v} == {"podtally"}


def test_the_configuration_is_one(overlay: Built, tmp_path: Path) -> None:
    mount = next(m for m in overlay.agent["volumeMounts"] if m["name"] == "config")
    (name,) = overlay.one("ConfigMap")["data"]
    assert overlay.agent["args"] == ["run", "--config", f"{mount['mountPath']}/{name}"]
    settings = overlay.settings(tmp_path)
    assert (settings.kubernetes, settings.events) == ("on", "-")
    assert overlay.agent["env"][0]["name"] == "NODE_NAME"


def test_probes_reach_the_agent(overlay: Built, tmp_path: Path) -> None:
    host, port = overlay.settings(tmp_path).listen_address()
    for kind, path in (("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz")):
        probe = overlay.agent[f"{kind}Probe"]["httpGet"]
        assert probe["path"] == path
        assert port_number(overlay.agent, probe["port"]) == port
        assert host == probe.get("host", "0.0.0.0")
    startup = overlay.agent["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > TIMEOUT_SECONDS


def port_number(container: Json, port: int | str) -> int:
    named = {each["name"]: int(each["containerPort"]) for each in container.get("ports", ())}
    return port if isinstance(port, int) else named[port]


def metrics_ports(overlay: Built) -> Iterator[int]:
    for container in overlay.pod["containers"]:
        for port in container.get("ports", ()):
            assert port["hostPort"] == port["containerPort"], "as the host's network demands"
            assert port["name"] == "metrics"
            yield port["containerPort"]


def test_a_scraper_finds_the_metrics(overlay: Built, tmp_path: Path) -> None:
    labels = overlay.one("DaemonSet")["spec"]["template"]["metadata"]["labels"]
    (port,) = metrics_ports(overlay)
    service = overlay.one("Service")["spec"]
    assert service["selector"].items() <= labels.items()
    assert [(p["port"], p["targetPort"]) for p in service["ports"]] == [(port, "metrics")]
    if overlay.has("PodMonitor", "podtally"):
        monitor = overlay.one("PodMonitor")["spec"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
        (endpoint,) = monitor["podMetricsEndpoints"]
        assert (endpoint["port"], endpoint["honorLabels"]) == ("metrics", True)
    else:
        notes = overlay.one("DaemonSet")["spec"]["template"]["metadata"]["annotations"]
        assert notes["prometheus.io/port"] == str(overlay.settings(tmp_path).listen_address()[1])


def test_openshift_grants_what_the_pods_ask_for(built: dict[str, Built]) -> None:
    overlay = built["openshift"]
    granted, rights = overlay.one("SecurityContextConstraints"), overlay.agent["securityContext"]
    notes = overlay.one("DaemonSet")["spec"]["template"]["metadata"]["annotations"]
    assert notes["openshift.io/required-scc"] == granted["metadata"]["name"]
    account = f"system:serviceaccount:podtally:{overlay.pod['serviceAccountName']}"
    assert granted["users"] == [account]
    assert set(granted["allowedCapabilities"]) == set(rights["capabilities"]["add"])
    assert granted["requiredDropCapabilities"] == ["ALL"]
    kinds = {next(key for key in v if key != "name") for v in overlay.pod["volumes"]}
    assert kinds <= set(granted["volumes"])
    assert granted["allowHostNetwork"]
    assert granted["allowHostPID"]
    assert not granted["allowPrivilegedContainer"]


def test_behind_the_proxy_nothing_else_reaches_the_agent(
    built: dict[str, Built], tmp_path: Path
) -> None:
    overlay, plain = built[BEHIND_PROXY], built["plain"]
    settings = overlay.settings(tmp_path)
    host, port = settings.listen_address()
    assert host == "127.0.0.1"
    assert plain.settings(tmp_path).__dict__ | {"listen": settings.listen} == settings.__dict__
    (proxy,) = (c for c in overlay.pod["containers"] if c["name"] == "kube-rbac-proxy")
    assert f"--upstream=http://{host}:{port}/" in proxy["args"]
    assert "--allow-paths=/metrics" in proxy["args"]
    assert f"--secure-listen-address=0.0.0.0:{port_number(proxy, 'metrics')}" in proxy["args"]
    (endpoint,) = overlay.one("PodMonitor")["spec"]["podMetricsEndpoints"]
    secret = overlay.one("Secret", endpoint["bearerTokenSecret"]["name"])
    account = secret["metadata"]["annotations"]["kubernetes.io/service-account.name"]
    bound = overlay.one("ClusterRoleBinding", "podtally-scraper")
    assert [subject["name"] for subject in bound["subjects"]] == [account]
    role = overlay.one("ClusterRole", bound["roleRef"]["name"])
    assert role["rules"] == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
