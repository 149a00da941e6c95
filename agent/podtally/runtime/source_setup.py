# SPDX-License-Identifier: Apache-2.0
"""Makes the sources of names that a configuration asks for."""

import logging
import queue

from podtally.config import Config
from podtally.config.kinds import split_networks
from podtally.config.node_name import node_name
from podtally.identity.cluster.state import ClusterState
from podtally.identity.local.directory import Directory
from podtally.kube.api_access import api_access
from podtally.kube.objects import RESOURCES
from podtally.kube.source import KubeSource
from podtally.policy.load.api_resources import POLICY_RESOURCES
from podtally.policy.load.live_policies import LivePolicies
from podtally.policy.load.policy_files import PolicyFiles
from podtally.policy.load.policy_sources import PolicySources
from podtally.runtime.identity_sources import Answers, IdentitySources, Threads
from podtally.runtime.policy_keeper import PolicyKeeper
from podtally.runtimes.cri import CriClient
from podtally.runtimes.engines import ContainerNames
from podtally.runtimes.name_resolver import NameResolver
from podtally.runtimes.pod_logs import PodLogs
from podtally.runtimes.process_finder import ProcessFinder

log = logging.getLogger(__name__)


def make_identity_sources(config: Config) -> IdentitySources:
    """Return the sources, not started; PodtallyError if the API's settings are wrong."""
    answers: Answers = queue.SimpleQueue()
    access, node = api_access(config), node_name(config)
    directory = Directory(
        config.endpoints,
        split_networks(config.networks).prefixes,
        int(config.name_wait * 1e9),
        ClusterState(node) if access is not None else None,
    )
    resolver = NameResolver(answers.put, _cri(config), PodLogs(config.pod_logs), ContainerNames())
    finder = ProcessFinder(answers.put, resolver)
    kube = None
    if access is not None:
        kube = KubeSource(access, (*RESOURCES, *POLICY_RESOURCES), answers.put)
        log.info("names come from the API at %s; this node is %s", access.server.url, node)
    keeper = PolicyKeeper(config.state_dir)
    kept_files = {name: each.parsed for name, each in keeper.kept.files.items()}
    kept_objects = {name: each.objects for name, each in keeper.kept.resources.items()}
    policies = PolicySources(
        PolicyFiles(config.policies, kept=kept_files) if config.policies else None,
        PolicyFiles(config.candidates, candidate=True) if config.candidates else None,
        LivePolicies(kept_objects) if access is not None else None,
        config.candidate_delete,
    )
    return IdentitySources(directory, answers, Threads(finder, policies, kube, keeper))


def _cri(config: Config) -> CriClient | None:
    if config.cri_socket == "off":
        return None
    return CriClient.from_setting(config.cri_socket)
