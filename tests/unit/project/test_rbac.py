# SPDX-License-Identifier: Apache-2.0
"""deploy/base/rbac.yaml gives the rights that the agent's watches need, and no other."""

from pathlib import Path

import yaml

from podtally.kube.objects import RESOURCES
from podtally.policy.load.api_resources import POLICY_RESOURCES

RBAC = Path(__file__).parents[3] / "deploy" / "base" / "rbac.yaml"


def group(path: str) -> str:
    """Paths are /api/v1/pods and /apis/batch/v1/jobs."""
    return "" if path.startswith("/api/") else path.split("/")[2]


def test_the_role_is_the_least_that_serves() -> None:
    by_kind = {each["kind"]: each for each in yaml.safe_load_all(RBAC.read_text())}
    rules = by_kind["ClusterRole"]["rules"]
    watched = (*RESOURCES, *POLICY_RESOURCES)
    given = {(g, r) for rule in rules for g in rule["apiGroups"] for r in rule["resources"]}
    assert given == {(group(resource.path), resource.name) for resource in watched}
    assert {verb for rule in rules for verb in rule["verbs"]} == {"list", "watch"}
    account = by_kind["ServiceAccount"]["metadata"]
    (subject,) = by_kind["ClusterRoleBinding"]["subjects"]
    assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])
    assert by_kind["ClusterRoleBinding"]["roleRef"]["name"] == "podtally"
