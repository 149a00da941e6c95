# SPDX-License-Identifier: Apache-2.0
"""``podtally suggest`` from a real agent's history, and what its policies allow once applied."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.e2e.agents import Agent, environment, value
from tests.e2e.conftest import MakeAgent
from tests.e2e.pods import Node
from tests.e2e.policy_cluster import Cluster, cluster
from tests.e2e.policy_world import begun, converse, eventually, until_verdict

SYNCED_SECONDS = 60.0  # until CRDs that are not there are believed not to be


@pytest.fixture
def shop(node: Node) -> Iterator[Cluster]:
    with cluster(node) as made:
        made.pod("web", {"app": "web", "pod-template-hash": "5c"}, http=80)
        made.pod("client", {"role": "user"})
        made.pod("stray", {"role": "stray"})
        yield made


def suggested(agent: Agent, folder: Path, *flags: str) -> str:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "podtally", "suggest", "shop", "--live"),
            *("--kubeconfig", str(folder / "kubeconfig")),
            *("--listen", f"127.0.0.1:{agent.places.port}", *flags),
        ],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_suggested_policies_allow_what_was_seen_and_deny_the_rest(
    shop: Cluster, make_agent: MakeAgent, tmp_path: Path
) -> None:
    agent = make_agent(*shop.flags(tmp_path))
    agent.start()
    agent.wait_ready()
    unsynced = "podtally_policy_resources_unsynced"
    eventually(agent, lambda samples: value(samples, unsynced), 0, SYNCED_SECONDS)
    pods = shop.node.pods
    seen = begun(workload="client", direction="egress", port="80")
    for count in range(1, 4):
        converse(pods["client"], pods["web"], 80)
        eventually(agent, seen, {"undeclared": count})
    text = suggested(agent, tmp_path)
    assert "pod-template-hash" not in text
    written = [each for each in yaml.safe_load_all(text) if each]
    assert {each["metadata"]["name"] for each in written} >= {"web-ingress", "client-egress"}
    for each in written:
        metadata = each["metadata"]
        shop.policy(f"{metadata['namespace']}/{metadata['name']}", **each["spec"])
    until_verdict(agent, partial(converse, pods["client"], pods["web"], 80), seen, "allowed")
    of_stray = begun(workload="stray", direction="egress", port="80")
    until_verdict(agent, partial(converse, pods["stray"], pods["web"], 80), of_stray, "denied")
    assert "kept: shop/web-ingress" in suggested(agent, tmp_path, "--diff")
