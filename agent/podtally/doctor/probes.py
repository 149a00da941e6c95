# SPDX-License-Identifier: Apache-2.0
"""Lists the probes, in the order of the report."""

from collections.abc import Iterator

from podtally.config import Config
from podtally.doctor import features, host, interfaces, names, policies
from podtally.doctor.finding import DoctorFinding
from podtally.doctor.hooks import hooks
from podtally.doctor.programs import own_programs, skipped


def examine(config: Config) -> Iterator[DoctorFinding]:
    """Run every probe, slow ones last; the slowest only if no other is fatal."""
    has_fatal = False
    for finding in _fast_probes(config):
        has_fatal = has_fatal or is_fatal(finding)
        yield finding
    yield skipped() if has_fatal else own_programs(config)


def is_fatal(finding: DoctorFinding) -> bool:
    return finding.fatal and finding.ok is False


def _fast_probes(config: Config) -> Iterator[DoctorFinding]:
    yield from host.capabilities()
    programs = features.system_call()
    yield programs
    if programs.ok:
        yield from features.features()
        yield from hooks()
        yield features.retransmits()
    yield features.jit()
    yield features.clock()
    yield host.bpffs(config.pin_dir)
    yield host.pin_lock(config.pin_dir)
    yield host.state_dir(config.state_dir)
    yield host.cgroup_v2()
    yield from interfaces.interfaces(config)
    yield from names.names(config)
    yield from policies.policies(config)
    if config.compile:
        yield from host.compiler()
