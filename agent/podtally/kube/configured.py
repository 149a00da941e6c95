# SPDX-License-Identifier: Apache-2.0
"""Whether and how the configuration has the Kubernetes API asked."""

from podtally.config import Config
from podtally.kube import kubeconfig
from podtally.kube.access import SERVICE_ACCOUNT, Access, in_cluster


def api_access(config: Config) -> Access | None:
    """None if it is not to be asked; PodtallyError if it is, and cannot be as it is told."""
    if config.kubernetes == "off":
        return None
    if config.kubeconfig is not None:
        return kubeconfig.load(config.kubeconfig, config.kube_context or "")
    if config.kubernetes == "on" or (SERVICE_ACCOUNT / "token").exists():
        return in_cluster()
    return None
