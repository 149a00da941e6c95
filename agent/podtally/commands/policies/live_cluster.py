# SPDX-License-Identifier: Apache-2.0
"""Lists policies and cluster objects from a Kubernetes API, once, for ``--live``."""

import argparse
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TextIO

import msgspec

from podtally.commands.policies.policy_paths import PolicyText, cluster_of, declared_in
from podtally.errors import PodtallyError
from podtally.kube.snapshot import ListedKind, Listing, SnapshotLister
from podtally.kube.user_access import user_access
from podtally.policy.cluster.manifests import CONTROLLERS
from podtally.policy.cluster.model import ClusterModel
from podtally.policy.load.api_resources import SOURCE
from podtally.policy.load.documents import Document, LineMap

_ADMIN = "policy.networking.k8s.io"
_CLUSTER = (
    ListedKind("", "v1", "namespaces", "Namespace"),
    ListedKind("", "v1", "nodes", "Node"),
    ListedKind("", "v1", "pods", "Pod"),
)
_CONTROLLERS = tuple(ListedKind("apps", "v1", f"{kind.lower()}s", kind) for kind in CONTROLLERS)
POLICIES = (
    ListedKind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    ListedKind(_ADMIN, "v1alpha2", "clusternetworkpolicies", "ClusterNetworkPolicy", custom=True),
    ListedKind(_ADMIN, "v1alpha1", "adminnetworkpolicies", "AdminNetworkPolicy", custom=True),
    ListedKind(
        _ADMIN,
        "v1alpha1",
        "baselineadminnetworkpolicies",
        "BaselineAdminNetworkPolicy",
        custom=True,
    ),
    ListedKind("networking.k8s.io", "v1", "ingresses", "Ingress"),
)
_PROGRESS_AFTER_SECONDS = 2.0
_PROGRESS_EVERY_SECONDS = 0.2


class LiveCluster(NamedTuple):
    cluster: ClusterModel
    written: PolicyText


def add_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """``what``: what --live reads from the API."""
    live = parser.add_argument_group("a live cluster")
    live.add_argument("--live", action="store_true", help=f"read {what} from the Kubernetes API")
    live.add_argument(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help="how to reach the API (default: $KUBECONFIG, ~/.kube/config, service account)",
    )
    live.add_argument(
        "--kube-context",
        metavar="NAME",
        help="context of the kubeconfig (default: the current one)",
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse flags that only --live uses, without it; PodtallyError."""
    for flag, given in (("--kubeconfig", args.kubeconfig), ("--kube-context", args.kube_context)):
        if given is not None and not args.live:
            raise PodtallyError(f"{flag} is only used with --live", "add --live")


def list_cluster(args: argparse.Namespace, *, controllers: bool = False) -> ClusterModel:
    """Return namespaces, nodes and pods; PodtallyError unless all of them can be listed.

    ``controllers``: with the selectors of workloads, as far as the user may list them.
    """
    with _lister(args) as lister:
        return cluster_of(_cluster_documents(lister, controllers))


def list_all(args: argparse.Namespace, *, controllers: bool = False) -> LiveCluster:
    """Return the cluster and its policies; PodtallyError as ``list_cluster``."""
    with _lister(args) as lister:
        cluster = cluster_of(_cluster_documents(lister, controllers))
        written = declared_in(_documents(lister, POLICIES), f"{SOURCE}: {lister.url}")
        return LiveCluster(cluster, written)


@contextlib.contextmanager
def _lister(args: argparse.Namespace) -> Iterator[SnapshotLister]:
    access = user_access(args.kubeconfig, args.kube_context or "", os.environ)
    with _Progress(sys.stderr) as progress:
        lister = SnapshotLister(access, progress.say)
        try:
            yield lister
        finally:
            lister.close()


def _cluster_documents(lister: SnapshotLister, controllers: bool) -> Iterator[Document]:
    yield from _documents(lister, _CLUSTER)
    for kind in _CONTROLLERS if controllers else ():
        with contextlib.suppress(PodtallyError):  # not permitted: then labels are found
            yield from _documents(lister, (kind,))


def _documents(lister: SnapshotLister, kinds: tuple[ListedKind, ...]) -> Iterator[Document]:
    for kind in kinds:
        listing = lister.all_of(kind)
        for item in listing.items:
            yield _document(listing, item)


def _document(listing: Listing, item: msgspec.Raw) -> Document:
    """Decode one object, so that never all pods are Python values at the same time."""
    kind = listing.kind
    try:
        content = msgspec.json.decode(item, type=dict)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PodtallyError(
            f"an item of the list {kind.path} cannot be decoded: {error}",
            "check the server's address: is it an API server?",
        ) from None
    content = {"apiVersion": kind.api_version, "kind": kind.kind, **content}
    return Document(SOURCE, kind.api_version, kind.kind, content, LineMap(None))


class _Progress:
    """Shows on a terminal what a slow operation is doing, and clears the line at the end."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._text = "reading the Kubernetes API"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._paint, name="progress", daemon=True)

    def __enter__(self) -> "_Progress":
        if self._out.isatty():
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def say(self, text: str) -> None:
        self._text = text

    def _paint(self) -> None:
        if self._done.wait(_PROGRESS_AFTER_SECONDS):
            return
        while not self._done.wait(_PROGRESS_EVERY_SECONDS):
            self._out.write(f"\r\x1b[Kpodtally: {self._text}")
            self._out.flush()
        self._out.write("\r\x1b[K")
        self._out.flush()
