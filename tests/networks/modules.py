# SPDX-License-Identifier: Apache-2.0
"""Optional parts of the running kernel; tests that need missing ones are skipped."""

import shutil
import subprocess
from collections.abc import Callable
from functools import cache

import pytest

from tests.kernel.links_support import own_netns, sh

# By module, how a device of its is made; ``low`` is there.
_DEVICES = {
    "8021q": "link low name probe type vlan id 5",
    "bonding": "name probe type bond",
    "geneve": "name probe type geneve id 5 remote 10.99.0.1",
    "ip_gre": "name probe type gre remote 10.99.0.1",
    "ipip": "name probe type ipip remote 10.99.0.1",
    "ipvlan": "link low name probe type ipvlan mode l2",
    "macvlan": "link low name probe type macvlan",
    "netkit": "name probe type netkit",
    "vrf": "name probe type vrf table 10",
    "wireguard": "name probe type wireguard",
}


def require(*modules: str) -> None:
    """Skip the test if the kernel lacks one of these, or the tools to use it are not here."""
    for module in modules:
        if why := _lacking(module):
            pytest.skip(f"{module}: {why}")


@cache
def _lacking(module: str) -> str:
    if module == "wireguard" and shutil.which("wg") is None:
        return "no wg here"
    if module in _DEVICES:
        return _no_device(_DEVICES[module])
    return _OTHERS[module]()


def _no_device(words: str) -> str:
    with own_netns():
        sh("ip link add low type veth peer name high")
        done = _run("ip", "link", "add", *words.split())
    return "" if done.returncode == 0 else f"not in this kernel ({done.stderr.strip()})"


def _no_ipvs() -> str:
    if shutil.which("ipvsadm") is None:
        return "no ipvsadm here"
    done = _run("ipvsadm", "--list")
    return "" if done.returncode == 0 else f"not in this kernel ({done.stderr.strip()})"


def _no_openvswitch() -> str:
    if shutil.which("ovs-vswitchd") is None:
        return "no ovs-vswitchd here"
    done = _run("genl", "ctrl", "get", "name", "ovs_datapath")
    return "" if done.returncode == 0 and "ovs_datapath" in done.stdout else "not in this kernel"


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


_OTHERS: dict[str, Callable[[], str]] = {"ip_vs": _no_ipvs, "openvswitch": _no_openvswitch}
