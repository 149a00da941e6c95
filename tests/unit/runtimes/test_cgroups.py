# SPDX-License-Identifier: Apache-2.0
"""Owners by cgroup paths, as kubelets, container runtimes and systemd write them."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from podtally.runtimes.cgroups import CgroupOwner, base_of, owner_of_file, owner_of_path

UID = "1f6c9b1e-5d2a-4e1b-9c3d-0123456789ab"
UNDERSCORED = UID.replace("-", "_")
HASH = "8d2ac1c2f5e04aa19b0d7d2b0c6f4e13"  # the UID of a static pod
ID = "0123456789abcdef" * 4
SHORT = ID[:12]
OTHER = "fedcba9876543210" * 4
USER = "/user.slice/user-1000.slice/user@1000.service"
RECORDED = Path(__file__).parents[4] / "shared" / "k8s-recordings" / "node1" / "processes.json"

POD = CgroupOwner("pod", UID)
POD_CONTAINER = CgroupOwner("pod", UID, ID)
STATIC = CgroupOwner("pod", HASH, ID)


def container(runtime: str, number: str = ID) -> CgroupOwner:
    return CgroupOwner(runtime, number[:12], number)


def systemd(unit: str) -> CgroupOwner:
    return CgroupOwner("systemd", unit)


PODS = {
    # the kubelet's cgroupfs driver
    f"/kubepods/besteffort/pod{UID}/{ID}": POD_CONTAINER,
    f"/kubepods/burstable/pod{UID}/{ID}": POD_CONTAINER,
    f"/kubepods/pod{UID}/{ID}": POD_CONTAINER,
    f"/kubepods/pod{UID}": POD,
    f"/kubepods/burstable/pod{HASH}/{ID}": STATIC,
    f"/kubepods/burstable/pod{UID}/crio-{ID}": POD_CONTAINER,
    f"/kubepods/burstable/pod{UID}/crio-conmon-{ID}": POD_CONTAINER,
    f"/kubepods/burstable/pod{UID}/{ID}/system.slice/nginx.service": POD_CONTAINER,
    # its systemd driver
    f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope": POD_CONTAINER,
    f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope": POD_CONTAINER,
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/crio-{ID}.scope": POD_CONTAINER,
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/crio-{ID}.scope/container": POD_CONTAINER,
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/crio-conmon-{ID}.scope": POD_CONTAINER,
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/docker-{ID}.scope": POD_CONTAINER,
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice": POD,
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice/cri-containerd-{ID}.scope": STATIC,
    # runc with the cgroupfs driver, given a path for the systemd one
    f"/system.slice/containerd.service/kubepods-burstable-pod{UNDERSCORED}.slice:cri-containerd:{ID}": POD_CONTAINER,
    # kind, minikube: as the node sees them, which is a container
    f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope": POD_CONTAINER,
    # docker in a pod, and a kubelet in one: the node knows the outer
    f"/kubepods/burstable/pod{UID}/{ID}/docker/{OTHER}": POD_CONTAINER,
    f"/kubepods/burstable/pod{UID}/{ID}/kubepods/pod{HASH}/{OTHER}": POD_CONTAINER,
    # seen from another cgroup namespace
    f"/../../pod{UID}/{ID}": POD_CONTAINER,
}

CONTAINERS = {
    f"/system.slice/docker-{ID}.scope": container("docker"),
    f"/docker/{ID}": container("docker"),
    f"/docker/{ID}/init.scope": container("docker"),
    f"/docker/{ID}/system.slice/nginx.service": container("docker"),
    f"/docker/{ID}/docker/{OTHER}": container("docker"),
    f"/docker/{ID}/kubelet/kubepods/besteffort/pod{UID}/{OTHER}": container("docker"),
    f"/system.slice/docker-{ID}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UNDERSCORED}.slice/cri-containerd-{OTHER}.scope": container(
        "docker"
    ),
    f"/system.slice/docker.service/docker/{ID}": container("docker"),
    f"/ecs.slice/ecs-{HASH}.slice/docker-{ID}.scope": container("docker"),
    f"/{ID}": container("container"),
    f"/../{ID}": container("container"),
    f"/system.slice/cri-containerd-{ID}.scope": container("containerd"),
    f"/k8s.io/{ID}": container("containerd"),
    f"/default/{ID}": container("containerd"),
    "/default/web": CgroupOwner("containerd", "web"),  # ctr run
    f"/system.slice/nerdctl-{ID}.scope": container("containerd"),
    f"/system.slice/containerd.service/system.slice:cri-containerd:{ID}": container("containerd"),
    f"/system.slice/crio-{ID}.scope": container("cri-o"),
    f"/system.slice/crio-conmon-{ID}.scope": container("cri-o"),
    f"/machine.slice/libpod-{ID}.scope/container": container("podman"),
    f"/machine.slice/libpod-{ID}.scope": container("podman"),
    f"/machine.slice/libpod-conmon-{ID}.scope": container("podman"),
    f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope": container("podman"),
    f"/libpod_parent/libpod-{ID}": container("podman"),
    f"/libpod_parent/libpod-{ID}/ctr": container("podman"),
    f"/libpod_parent/{OTHER}/libpod-{ID}": container("podman"),
    f"/docker/{ID}/kubepods/podnone": container("docker"),
}

MACHINES = {
    "/lxc/web": CgroupOwner("lxc", "web"),
    "/lxc/100/ns/system.slice/nginx.service": CgroupOwner("lxc", "100"),
    "/lxc.payload/web": CgroupOwner("lxc", "web"),
    "/lxc.payload.web": CgroupOwner("lxc", "web"),
    "/lxc.payload.web/init.scope": CgroupOwner("lxc", "web"),
    "/lxc.payload.a.b/system.slice/nginx.service": CgroupOwner("lxc", "a.b"),
    f"/lxc/100/ns/docker/{ID}": CgroupOwner("lxc", "100"),
    "/lxc.monitor.web": CgroupOwner("lxc", "web"),
    "/lxc.monitor/web": CgroupOwner("lxc", "web"),
    "/machine.slice/machine-web.scope": CgroupOwner("machine", "web"),
    r"/machine.slice/machine-my\x2dweb.scope/payload/system.slice/nginx.service": CgroupOwner("machine", "my-web"),
    "/machine.slice/systemd-nspawn@web.service/payload/init.scope": CgroupOwner("machine", "web"),
    r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator": CgroupOwner("machine", "vm"),
    r"/machine.slice/machine-qemu\x2d12\x2dmy\x2dvm\x2d2.scope": CgroupOwner("machine", "my-vm-2"),
    r"/machine.slice/machine-lxc\x2d3\x2dweb.scope": CgroupOwner("lxc", "web"),
    "/machine/qemu-1-vm.libvirt-qemu/emulator": CgroupOwner("machine", "vm"),
    "/machine/vm.libvirt-qemu": CgroupOwner("machine", "vm"),
}  # fmt: skip

UNITS = {
    "/system.slice/nginx.service": systemd("nginx.service"),
    "/system.slice/system-getty.slice/getty@tty1.service": systemd("getty@tty1.service"),
    r"/system.slice/system-my\x2dapp.slice/my\x2dapp@1.service": systemd("my-app@1.service"),
    "/system.slice/a:b.service": systemd("a:b.service"),
    "/system.slice/haproxy.service/workers/3": systemd("haproxy.service"),
    "/system.slice/docker.service": systemd("docker.service"),
    "/system.slice/containerd.service": systemd("containerd.service"),
    "/system.slice/sshd.socket": systemd("sshd.socket"),
    "/system.slice/backup.scope": systemd("backup.scope"),
    f"{USER}/app.slice": systemd("user@1000.service"),
    f"{USER}/init.scope": systemd("user@1000.service"),
    # whatever a user's manager may make is the user's
    f"{USER}/app.slice/ssh.service": systemd("user@1000.service"),
    f"{USER}/user.slice/docker-{ID}.scope": systemd("user@1000.service"),
    f"{USER}/user.slice/libpod-{ID}.scope/container": systemd("user@1000.service"),
    f"{USER}/user.slice/user-libpod_pod_{OTHER}.slice/libpod-{ID}.scope": systemd(
        "user@1000.service"
    ),
    f"{USER}/app.slice/pod{UID}/x": systemd("user@1000.service"),
    f"{USER}/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/cri-containerd-{ID}.scope": systemd(
        "user@1000.service"
    ),
    f"{USER}/lxc.payload.web": systemd("user@1000.service"),
    f"{USER}/machine-web.scope": systemd("user@1000.service"),
    f"{USER}/system.slice/ssh.service": systemd("user@1000.service"),
    f"/..{USER}/app.slice/ssh.service": systemd("user@1000.service"),
    "/user.slice/user-1000.slice/session-1.scope/lxc.payload.web": systemd("user-1000.slice"),
    "/user.slice/user-1000.slice/session-1.scope/system.slice/ssh.service": systemd(
        "user-1000.slice"
    ),
    # and what a unit may make, the unit's
    f"/system.slice/web.service/libpod-payload-{ID}": systemd("web.service"),
    f"/system.slice/web.service/kubepods/pod{UID}/{ID}": systemd("web.service"),
    "/system.slice/web.service/ssh.service": systemd("web.service"),
    f"/system.slice/run-7.scope/docker/{ID}": systemd("run-7.scope"),
    f"{USER}/app.slice/app-editor-4711.scope": systemd("user@1000.service"),
    f"{USER}/user.slice/podman-4711.scope": systemd("user@1000.service"),
    "/user.slice/user-1000.slice/session-3.scope": systemd("user-1000.slice"),
    "/user.slice/user-0.slice/session-c1.scope": systemd("user-0.slice"),
}

SILENT = (
    "/",
    "",
    "/..",
    "/init.scope",
    "/user.slice",
    "/system.slice",
    "/machine.slice",
    "/kubepods",
    "/kubepods.slice/kubepods-burstable.slice",
    "/kubepods/podnone",
    f"/kubepods/pod{UID}x",
    f"/kubepods/pod{UID[:-1]}",
    f"/kubepods/pod{UID.replace('-', '_', 1)}",
    f"/docker/{ID[:-1]}",  # an id has 64 digits
    f"/docker/{ID}0",
    f"/docker/{ID.upper()}",
    "/lxc",
    "/lxc.pivot",
    "/default",
    "/somewhere/default/web",
    # no one knows what makes cgroups there
    f"/alice/docker/{ID}",
    f"/alice/kubepods/pod{UID}/{ID}",
    f"/ecs/{HASH}/{ID}",
    "/alice/ssh.service",
    "/process_api/3619f09268a98909d9fd2db021ff7fb3",
)


@pytest.mark.parametrize(
    ("path", "found"), [*PODS.items(), *CONTAINERS.items(), *MACHINES.items(), *UNITS.items()]
)
def test_a_path(path: str, found: CgroupOwner) -> None:
    assert owner_of_path(path) == found


@pytest.mark.parametrize("path", SILENT)
def test_a_path_without_an_owner(path: str) -> None:
    assert owner_of_path(path) is None


MADE_BY_ROOT = {
    f"/ecs/{HASH}/{ID}": container("container"),
    f"/actions_job/{ID}": container("container"),  # docker run --cgroup-parent
    f"/custom/kubepods/pod{UID}/{ID}": POD_CONTAINER,  # kubelet --cgroup-root
    f"/system.slice/web.service/libpod-payload-{ID}": container("podman"),  # Quadlet
    "/user.slice/user-1000.slice/session-1.scope/lxc.payload.web": CgroupOwner("lxc", "web"),
    f"{USER}/app.slice/pod{UID}/x": systemd("user@1000.service"),
    f"/docker/{ID}/system.slice/ssh.service": container("docker"),
}


@pytest.mark.parametrize(("path", "found"), MADE_BY_ROOT.items())
def test_where_root_alone_makes_cgroups(path: str, found: CgroupOwner) -> None:
    assert owner_of_path(path, lambda _: True) == found


def test_made_by_root_is_checked_for_the_parent() -> None:
    asked: list[str] = []

    def made_by_root(path: str) -> bool:
        asked.append(path)
        return path == "/custom"

    assert owner_of_path(f"/custom/alice/pod{UID}/{ID}", made_by_root) is None
    assert asked == ["/custom", "/custom/alice"]


def test_a_host_that_is_a_container() -> None:
    """A node of kind without a cgroup namespace: its pods do not belong to its container."""
    node = f"/docker/{OTHER}"
    pod = f"{node}/kubelet/kubepods/besteffort/pod{UID}/{ID}"
    assert base_of(f"{node}/init.scope") == node
    assert owner_of_path(pod, base=node) == POD_CONTAINER
    assert owner_of_path(f"{node}0/kubelet/kubepods/pod{UID}/{ID}", base=node) is None
    assert base_of("/init.scope") == base_of("/") == base_of(f"/kubepods/pod{UID}/{ID}") == ""


def test_an_unprintable_name() -> None:
    found = owner_of_path(r"/system.slice/x\x0aevil\x1b.service")
    assert found == systemd(r"x\x0aevil\x1b.service")
    assert owner_of_path(os.fsdecode(b"/system.slice/\xff.service")) == systemd(r"\xff.service")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"0::/kubepods/pod{UID}/{ID}\n", POD_CONTAINER),
        ("0::/\n", None),
        ("", None),
        ("not a cgroup file\n", None),
        (
            f"1:name=systemd:/system.slice/kubelet.service\n4:memory:/docker/{ID}\n",
            container("docker"),
        ),
        (f"4:memory:/docker/{ID}\n3:cpu,cpuacct:/kubepods/pod{UID}\n", POD),
        (f"4:memory:/kubepods/pod{UID}\n0::/kubepods/pod{UID}/{ID}\n", POD_CONTAINER),
        (f"4:memory:/lxc/web\n3:cpu:/docker/{ID}\n0::/\n", container("docker")),
        ("2:cpu:/lxc/web\n1:name=systemd:/system.slice/lxc.service\n", CgroupOwner("lxc", "web")),
        ("2:cpu:/\n1:name=systemd:/system.slice/a:b.service\n", systemd("a:b.service")),
        (
            f"0::/system.slice/containerd.service/kubepods-pod{UNDERSCORED}.slice:cri-containerd:{ID}",
            POD_CONTAINER,
        ),
    ],
)
def test_a_file_of_one_or_all_hierarchies(text: str, found: CgroupOwner | None) -> None:
    assert owner_of_file(text) == found


class Recorded(NamedTuple):
    cgroup: str
    pod_uid: str
    container: str


def recorded() -> list[Recorded]:
    if not RECORDED.exists():
        pytest.skip(f"{RECORDED} is not there")
    return [
        Recorded(each["cgroup"], each["pod_uid"], each["container"])
        for each in json.loads(RECORDED.read_text())
    ]


def test_processes_of_a_real_node() -> None:
    """A hybrid host: each line of each process names the same owner."""
    processes = recorded()
    assert len(processes) > 5
    for process in processes:
        expected = CgroupOwner("pod", process.pod_uid, process.container)
        assert owner_of_file(process.cgroup) == expected
        assert {owner_of_file(line) for line in process.cgroup.splitlines()} == {expected}


def test_an_owner_survives_the_checkpoint() -> None:
    for found in (POD, POD_CONTAINER):
        assert msgspec.json.decode(msgspec.json.encode(found), type=CgroupOwner) == found
