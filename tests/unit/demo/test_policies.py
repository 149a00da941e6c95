# SPDX-License-Identifier: Apache-2.0
"""The demo's configuration and policies: that they are sound, and fit the demo."""

import json
from pathlib import Path

import pytest

from podtally import config
from podtally.cli import main
from podtally.demo.policies import POLICY_FILES
from podtally.demo.topology import (
    BACKEND,
    BACKEND_PORT,
    BANK,
    BANK_PORT,
    DATABASE,
    DATABASE_PORT,
    DNS_PORT,
    FRONTEND,
    FRONTEND_PORT,
    OLD_BANK,
    OUTSIDE,
    OUTSIDE_PORT,
    PAYMENTS,
    PODS,
    RESOLVER,
    STRAY,
    USER,
    Host,
    agent_config,
)


def configured(tmp_path: Path) -> config.Config:
    file = tmp_path / "podtally.yaml"
    file.write_text(agent_config())
    return config.load(file, {})


def test_the_agent_understands_its_configuration(tmp_path: Path) -> None:
    read = configured(tmp_path)
    assert [(each.namespace, each.name) for each in read.endpoints] == [
        (pod.namespace, pod.pod) for pod in PODS
    ]
    assert read.endpoints[0] == config.StaticEndpoint(
        netns="podtally-demo-user", namespace="shop", name="user-4b",
        workload="user", workload_kind="Deployment", labels={"app": "user", "role": "user"},
    )  # fmt: skip
    assert read.networks == {
        "bank": ("203.0.113.0/24",),
        "old-bank": (f"{OLD_BANK}/32",),
        "dns": (f"{RESOLVER.address}/32",),
    }
    assert read.resolvers == (RESOLVER.address,)


# Who asks whom at which port, and what the policies are to say of it.
STORY: list[tuple[Host, Host | str, int, str]] = [
    (USER, FRONTEND, FRONTEND_PORT, "allowed"),
    (FRONTEND, BACKEND, BACKEND_PORT, "allowed"),
    (BACKEND, DATABASE, DATABASE_PORT, "allowed"),
    (PAYMENTS, BANK, BANK_PORT, "allowed"),
    (PAYMENTS, OLD_BANK, BANK_PORT, "denied"),
    (STRAY, OUTSIDE.address, OUTSIDE_PORT, "denied"),
    (STRAY, RESOLVER.address, DNS_PORT, "allowed"),
    (PAYMENTS, RESOLVER.address, DNS_PORT, "allowed"),
    (STRAY, FRONTEND, FRONTEND_PORT, "denied"),
    (USER, DATABASE, DATABASE_PORT, "denied"),
    (DATABASE, OUTSIDE.address, OUTSIDE_PORT, "denied"),
    (DATABASE, BACKEND, BACKEND_PORT, "denied"),
    (PAYMENTS, BANK, 80, "denied"),
    (PAYMENTS, OUTSIDE.address, BANK_PORT, "denied"),
]


def test_the_policies_have_no_faults_and_say_what_the_demo_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    for name, text in POLICY_FILES.items():
        (policies / name).write_text(text)
    endpoints = configured(tmp_path).endpoints
    cluster = {
        "id": "demo",
        "namespaces": [{"name": name} for name in sorted({pod.namespace for pod in PODS})],
        "pods": [
            {
                "namespace": pod.namespace,
                "name": pod.pod,
                "labels": dict(endpoint.labels or {}),
                "ips": [pod.address],
            }
            for pod, endpoint in zip(PODS, endpoints, strict=True)
        ],
    }
    probes = [
        {
            "from": end(source),
            "to": end(target),
            "protocol": "UDP" if port == DNS_PORT else "TCP",
            "port": port,
            "expect": expect,
        }
        for source, target, port, expect in STORY
    ]
    case, world = tmp_path / "case.json", tmp_path / "world.json"
    case.write_text(json.dumps(cluster | {"probes": probes}))
    world.write_text(json.dumps(cluster))
    assert main(["check", "--probes", str(case), str(policies)]) == 0, capsys.readouterr().out
    lint = ["check", str(policies), "--cluster", str(world), "--ignore", "unisolated"]
    lint += ["--ignore", "no-dns"]  # the demo's pods know each other's addresses
    assert main(lint) == 0, capsys.readouterr().out


def end(who: Host | str) -> dict[str, str]:
    return {"ip": who} if isinstance(who, str) else {"pod": f"{who.namespace}/{who.pod}"}
