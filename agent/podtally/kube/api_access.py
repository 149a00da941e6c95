# SPDX-License-Identifier: Apache-2.0
"""Chooses the access to the Kubernetes API: a kubeconfig, the pod's service account, or none."""

import os
from collections.abc import Mapping
from pathlib import Path

from podtally.config import Config
from podtally.errors import PodtallyError
from podtally.kube import kubeconfig
from podtally.kube.access import Access, ApiServerAddress
from podtally.kube.credentials import CredentialData, FileCredentials

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def api_access(config: Config) -> Access | None:
    """Return the configured access, None if there is none; PodtallyError if it is unusable."""
    if config.kubernetes == "off":
        return None
    if config.kubeconfig is not None:
        return kubeconfig.load(config.kubeconfig, config.kube_context or "")
    if config.kubernetes == "on" or (SERVICE_ACCOUNT / "token").exists():
        return in_cluster()
    return None


def in_cluster(
    environment: Mapping[str, str] = os.environ, folder: Path = SERVICE_ACCOUNT
) -> Access:
    """Return a pod's access through its service account; PodtallyError outside of a pod."""
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise PodtallyError(
            "not in a Kubernetes pod: KUBERNETES_SERVICE_HOST and _PORT are not set",
            "give a kubeconfig",
        )
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise PodtallyError(f"KUBERNETES_SERVICE_PORT={port!r} is no port", "give a kubeconfig")
    token = CredentialData("the service account's token", folder / "token")
    ca = CredentialData("the service account's CA", folder / "ca.crt")
    source = FileCredentials(token=token)
    source.get()
    ca.read()
    return Access(ApiServerAddress(host.strip("[]"), int(port), ca=ca), source)
