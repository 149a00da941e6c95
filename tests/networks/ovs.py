# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch as OVN-Kubernetes and Antrea use it: pods are ports, and it translates Services itself."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.pods import ip
from tests.networks.lab import BACK, FRONT, GATEWAY, SERVICE, Lab, Member
from tests.networks.shapes import Plain, in_pod, masquerade, pair
from tests.patience import FACTOR

BRIDGE = "br-int"
ZONE = 7
_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
_SECONDS = 60.0 * FACTOR
_PLACES = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
_FLOWS = f"""
table=0,priority=100,ip,actions=ct(table=1,zone={ZONE},nat)
table=0,priority=0,actions=NORMAL
table=1,priority=100,ct_state=+trk+new,ip,actions=ct(commit,zone={ZONE},table=2)
table=1,priority=0,actions=resubmit(,2)
table=2,priority=0,actions=NORMAL
"""


@dataclass(frozen=True)
class OpenVSwitch(Plain):
    versions: tuple[int, ...] = (4,)
    prefix: str = "veth"
    interfaces: str = "veth*"
    flags: tuple[str, ...] = ()
    modules: tuple[str, ...] = ("openvswitch",)

    def prepare(self, lab: Lab) -> None:
        start_switch(lab)
        self._control(lab, "ovs-vsctl", "add-br", BRIDGE)
        ip("addr", "add", f"{GATEWAY[4]}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for flow in _FLOWS.split():
            self._flow(lab, flow)
        masquerade(self.versions)

    def plug(self, lab: Lab, pod: Member) -> None:
        pair(pod)
        ip("link", "set", pod.link, "up")
        in_pod(pod, "link", "set", "eth0", "up")
        in_pod(pod, "addr", "add", f"{pod.addresses[4]}/24", "dev", "eth0")
        in_pod(pod, "route", "add", "default", "via", GATEWAY[4])
        self._control(lab, "ovs-vsctl", "add-port", BRIDGE, pod.link)
        (link,) = json.loads(ip("-n", pod.netns, "-j", "link", "show", "eth0"))
        to = f"mod_dl_dst:{link['address']},output:{pod.link}"
        self._flow(lab, f"table=2,priority=100,ip,nw_dst={pod.addresses[4]},actions={to}")

    def serve(self, lab: Lab, backend: Member) -> None:
        to = f"ct(commit,zone={ZONE},nat(dst={backend.addresses[4]}:{BACK}),table=2)"
        front = f"tcp,nw_dst={SERVICE[4]},tp_dst={FRONT}"
        self._flow(lab, f"table=1,priority=200,ct_state=+trk+new,{front},actions={to}")

    def entry(self, pod: Member, version: int) -> tuple[str, int]:
        return pod.addresses[version], BACK

    def _flow(self, lab: Lab, flow: str) -> None:
        self._control(lab, "ovs-ofctl", "--names", "add-flow", BRIDGE, flow)

    def _control(self, lab: Lab, *command: str) -> None:
        command = (command[0], f"--timeout={_SECONDS:.0f}", *command[1:])
        done = subprocess.run(
            command, env=switch_environment(lab), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"


def switch_environment(lab: Lab) -> Mapping[str, str]:
    place = str(Path(tempfile.gettempdir(), f"{lab.id}-ovs"))
    return os.environ | dict.fromkeys(_PLACES, place)


def start_switch(lab: Lab) -> None:
    """Run a switch and its database on the node, until the lab goes."""
    variables = switch_environment(lab)
    place = Path(variables["OVS_RUNDIR"])
    place.mkdir()
    lab.stack.callback(shutil.rmtree, place)
    database, socket = place / "conf.db", place / "db.sock"
    subprocess.run(["ovsdb-tool", "create", database, _SCHEMA], check=True)
    for command in (
        ["ovsdb-server", f"--remote=punix:{socket}", f"--unixctl={place}/db.ctl", str(database)],
        ["ovs-vswitchd", f"--unixctl={place}/switch.ctl", f"unix:{socket}"],
    ):
        words = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        process = subprocess.Popen(words, env=variables, stderr=subprocess.DEVNULL)
        lab.stack.callback(process.wait)
        lab.stack.callback(process.terminate)
        end = time.monotonic() + _SECONDS
        while not socket.exists():
            assert time.monotonic() < end, f"{command[0]} does not start"
            time.sleep(0.05)
    init = ["ovs-vsctl", f"--timeout={_SECONDS:.0f}", "--no-wait", "init"]
    subprocess.run(init, env=variables, check=True)
