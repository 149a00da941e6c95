# SPDX-License-Identifier: Apache-2.0
"""The Helm chart, rendered by Helm itself: the objects of the overlays, and values that are checked."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import podtally
from tests.unit.project.test_deploy import (
    BEHIND_PROXY,
    CUSTOM,
    DEPLOY,
    VERSIONS,
    Built,
    Json,
    kustomize,
    kustomize_behind_proxy,
    refused,
)

CHART = DEPLOY / "helm"
OPERATOR = {"scrape": {"podMonitor": {"enabled": True}, "rules": {"enabled": True}}}
SAME: dict[str, tuple[Json, str]] = {
    "plain": ({}, "overlays/plain"),
    "operator": (OPERATOR, "overlays/prometheus-operator"),
    "openshift": (OPERATOR | {"openshift": {"enabled": True}}, "overlays/openshift"),
    "kind": ({"mountBpffs": True}, "overlays/kind"),
    "proxy": (OPERATOR | {"kubeRbacProxy": {"enabled": True}}, BEHIND_PROXY),
}


def render(values: Json, namespace: str = "podtally") -> Built:
    helm = pytest.importorskip("helm_python", reason="no helm-python-sdk (it is for x86-64)")
    with helm.Chart.load(CHART) as chart:
        rendered = chart.render(values=values, name="podtally", namespace=namespace)
    texts = [text for name, text in rendered.items() if not name.endswith("NOTES.txt")]
    return Built([each for text in texts for each in yaml.safe_load_all(text) if each])


def bare(item: Json) -> Json:
    """An object without the labels that only describe it, and with its settings as they are read."""
    found: Json = json.loads(json.dumps(item))
    found["metadata"].pop("labels", None)
    annotations = found.get("spec", {}).get("template", {}).get("metadata", {}).get("annotations")
    if annotations:
        annotations.pop("checksum/config", None)
    if found["kind"] == "ConfigMap":
        found["data"] = {name: yaml.safe_load(text) for name, text in found["data"].items()}
    if found["kind"] == "ResourceQuota":
        found["spec"]["hard"] = {name: str(text) for name, text in found["spec"]["hard"].items()}
    return found


def by_name(objects: list[Json]) -> dict[tuple[str, str], Json]:
    return {
        (each["kind"], each["metadata"]["name"]): bare(each)
        for each in objects
        if each["kind"] != "Namespace"
    }


@pytest.mark.parametrize("name", SAME)
def test_it_makes_the_objects_of_the_overlay(name: str, tmp_path: Path) -> None:
    values, overlay = SAME[name]
    wanted = (
        kustomize_behind_proxy(tmp_path) if overlay == BEHIND_PROXY else kustomize(DEPLOY / overlay)
    )
    made, expected = by_name(render(values).objects), by_name(wanted.objects)
    assert made.keys() == expected.keys()
    for key, item in expected.items():
        assert made[key] == item, key


@pytest.mark.parametrize("openshift", [False, True])
def test_the_cleanup_takes_the_place_of_the_agents(openshift: bool) -> None:
    values = {"cleanup": {"enabled": True}, "openshift": {"enabled": openshift}}
    made = by_name(render(values).objects)
    assert ("DaemonSet", "podtally") not in made
    folder = DEPLOY / ("overlays/openshift-cleanup" if openshift else "cleanup")
    (wanted,) = by_name(kustomize(folder).objects).values()
    assert made["DaemonSet", "podtally-cleanup"] == wanted


FULL: Json = {
    "image": {"repository": "registry.example.org/podtally", "tag": "1", "pullSecrets": [{"name": "r"}]},
    "config": {"cluster_name": "lab", "prices": {"egress": {"internet": 0.09}}, "events": "/tmp/events"},
    "port": 9999,
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "net"},
    "affinity": {"nodeAffinity": {}},
    "extraEnv": [{"name": "A", "value": "b"}],
    "extraVolumes": [{"name": "tls", "secret": {"secretName": "tls"}}],
    "extraVolumeMounts": [{"name": "tls", "mountPath": "/tls"}],
    "user": {"create": True, "subjects": [{"kind": "User", "name": "u", "apiGroup": "rbac.authorization.k8s.io"}]},
    "scrape": {
        "podMonitor": {"enabled": True, "labels": {"release": "prom"}},
        "rules": {
            "enabled": True, "labels": {"release": "prom"}, "grafanaUrl": "https://grafana.example.org/",
            "runbookUrl": "https://docs.example.org/operations",
        },
    },
    "openshift": {"enabled": True},
    "mountBpffs": True,
}  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", [{}, FULL, FULL | {"cleanup": {"enabled": True}}])
def test_kubernetes_takes_every_object(values: Json, version: str) -> None:
    made = render(values, "elsewhere")
    result = [refused(each, version) for each in made.objects if each["kind"] not in CUSTOM]
    assert [each for each in result if each] == []
    assert {each["metadata"].get("namespace", "elsewhere") for each in made.objects} == {
        "elsewhere"
    }


def test_values_reach_the_agent(tmp_path: Path) -> None:
    made = render(FULL)
    settings = made.settings(tmp_path)
    assert (settings.listen, settings.kubernetes, settings.events) == (
        "0.0.0.0:9999",
        "on",
        "/tmp/events",
    )
    assert made.agent["image"] == "registry.example.org/podtally:1"
    assert [port["hostPort"] for port in made.agent["ports"]] == [9999]
    assert made.one("PodMonitor")["metadata"]["labels"]["release"] == "prom"
    assert made.pod["volumes"][-1]["name"] == made.agent["volumeMounts"][-1]["name"] == "tls"
    rules = [
        rule for group in made.one("PrometheusRule")["spec"]["groups"] for rule in group["rules"]
    ]
    assert any("{{ $labels.namespace }}" in str(rule) for rule in rules), (
        "Helm leaves templates alone"
    )
    alerts = [each["annotations"] for each in rules if "alert" in each]
    hosts = {
        each[f"{kind}_url"].split("/")[2] for each in alerts for kind in ("runbook", "dashboard")
    }
    assert hosts == {"docs.example.org", "grafana.example.org"}


@pytest.mark.parametrize(
    "values",
    [
        {"images": {}},
        {"image": {"repo": "x"}},
        {"port": 0},
        {"image": {"pullPolicy": "Sometimes"}},
        {"scrape": {"podMonitor": {"enabled": "yes"}}},
        {"nodeSelector": {"a": 1}},
    ],
)
def test_wrong_values_are_rejected(values: Json) -> None:
    helm = pytest.importorskip("helm_python", reason="no helm-python-sdk (it is for x86-64)")
    with pytest.raises(helm.errors.HelmError), helm.Chart.load(CHART) as chart:
        chart.render(values=values, name="podtally", namespace="podtally")


def test_every_value_is_in_the_schema_and_is_explained() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)

    def compare(value: Any, described: Json, where: str) -> None:
        if described.get("additionalProperties") is False:
            assert set(value) == set(described["properties"]) - {"global"}, where
            for name, inner in value.items():
                compare(inner, described["properties"][name], f"{where}.{name}")

    compare(values, schema, "")
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == podtally.__version__
