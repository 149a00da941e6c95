# SPDX-License-Identifier: Apache-2.0
"""The process finder while no descriptors are left."""

import os
import resource
from pathlib import Path

import pytest

from tests.kernel.test_process_finder import POD, Host, host

__all__ = ["host"]


def test_recovers_from_a_lack_of_descriptors(host: Host, tmp_path: Path) -> None:
    """The thread continues, and finds processes that came meanwhile."""
    link = host.plug("ptl0", str(host.process(POD)))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.listdir("/proc")
        host.finder.look(link.ifindex, link.peer_nsid)
        assert host.silent(0.5)
        assert host.finder.alive
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert host.process_found(20).owner.kind == "pod"
