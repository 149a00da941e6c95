# SPDX-License-Identifier: Apache-2.0
"""Brings the agent's metrics about itself up to date after an epoch."""

import logging
import time
from collections import Counter

from podtally.export.agent_metrics import AgentMetrics
from podtally.netlink.model import Mode, Role
from podtally.policy.load.policy_sources import DeclaredPolicies
from podtally.runtime.bring_up import AgentComponents
from podtally.runtime.identity_sources import IdentitySources
from podtally.runtime.journal import EpochResult

log = logging.getLogger(__name__)

BYPASSED = "bypassed"  # in place of a hook


class MetricsUpdate:
    """Remembers which part of others' counts is in the metrics already."""

    def __init__(self, metrics: AgentMetrics, components: AgentComponents) -> None:
        self._metrics = metrics
        self._components = components
        self._counted = (0, 0, 0, 0, 0, 0)
        self._policies: DeclaredPolicies | None = None  # that the metrics show
        self._bypassed: set[int] = set()  # interfaces past which packets were seen
        metrics.table_slots.set(components.table.slots)

    def update(self, epoch: EpochResult) -> None:
        metrics, components = self._metrics, self._components
        metrics.epoch_flows.set(epoch.flows)
        metrics.table_fill.set(epoch.flows / components.table.slots)
        metrics.connections.set(len(components.ledger.connections))
        metrics.unnamed.set(len(components.directory.unnamed()))
        modes = Counter(components.interfaces.modes())
        for mode in Mode:
            metrics.attached.labels(mode.value).set(modes[mode.value])
        self._update_sources(components.sources)
        self._update_policies(components.sources)

    def update_foreign_programs(self) -> None:
        """Count programs of others that run before ours on the watched interfaces."""
        self._metrics.foreign.clear()
        for ifindex, watched in list(self._components.interfaces.watched.items()):
            try:
                found = self._components.attacher.foreign(ifindex)
            except OSError:  # the interface is being removed; its event follows
                continue
            for program in found:
                if program.before_ours:
                    self._metrics.foreign.labels(watched.name, program.hook.value).inc()
            if watched.role is Role.POD:
                self._update_bypass(ifindex, watched.name)

    def _update_bypass(self, ifindex: int, name: str) -> None:
        """Report a pod that another program serves past our hooks; logged once for each."""
        try:
            hidden = self._components.attacher.bypassing_bytes(ifindex)
        except OSError:  # a namespace that may not be asked, or is going
            return
        if not hidden:
            return
        self._metrics.foreign.labels(name, BYPASSED).inc()
        if ifindex not in self._bypassed:
            self._bypassed.add(ifindex)
            log.warning(
                "%d bytes went to or from the pod behind %s without passing it: another program "
                "redirects at the pod's end (bpf_redirect_peer, netkit); they are not counted "
                "(docs/networks.md)",
                hidden,
                name,
            )

    def _update_sources(self, sources: IdentitySources) -> None:
        metrics, watcher, state = self._metrics, self._components.watcher, sources.state()
        for resource, age in state.ages_seconds.items():
            metrics.kubernetes_age.labels(resource).set(age)
        for resource, count in state.objects.items():
            metrics.kubernetes_objects.labels(resource).set(count)
        metrics.kubernetes_unsynced.clear()
        for resource, why in state.unsynced.items():
            metrics.kubernetes_unsynced.labels(resource, why).set(1)
        metrics.conntrack.set(state.conntrack)
        metrics.conflicting.clear()
        for (namespace, workload), count in state.contradicted.items():
            metrics.conflicting.labels(namespace, workload).set(count)
        now = (
            *(watcher.attach_errors, watcher.resyncs, state.errors, state.lists),
            *(state.lookups, state.lookups_missed),
        )
        totals = (
            *(metrics.attach_errors, metrics.resyncs, metrics.source_errors, metrics.relists),
            *(metrics.conntrack_lookups, metrics.conntrack_missed),
        )
        for total, count, counted in zip(totals, now, self._counted, strict=True):
            total.inc(count - counted)
        self._counted = now

    def _update_policies(self, sources: IdentitySources) -> None:
        metrics, state = self._metrics, sources.policies.state()
        if sources.policies.latest is not self._policies:
            self._policies = sources.policies.latest
            metrics.policies_changed.set(time.time())
        metrics.policies.clear()
        for kind, count in state.counts.items():
            metrics.policies.labels(kind).set(count)
        metrics.policies_unreadable.set(state.unreadable)
        metrics.policy_files_stale.set(state.stale_files)
        metrics.candidates.set(state.candidates)
        metrics.policies_unsynced.set(len(state.unsynced))
        metrics.policies_kept.set(len(state.kept))
