# SPDX-License-Identifier: Apache-2.0
"""The DaemonSet's container as an OCI bundle, made as a kubelet and its runtime make one."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy" / "base"
# What podman and CRI-O mean by RuntimeDefault, golang-github-containers-common's.
SECCOMP = Path("/usr/share/containers/seccomp.json")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware")
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_BY_CAPABILITY = {"bpf": "CAP_BPF", "perf_event_open": "CAP_PERFMON"}
_DEFAULTS = ("defaultAction", "defaultErrnoRet")
_DEVICES = ["nosuid", "noexec"]

Json = dict[str, Any]


def pod_spec() -> Json:
    text = (DEPLOY / "daemonset.yaml").read_text()
    spec: Json = yaml.safe_load(text)["spec"]["template"]["spec"]
    return spec


def settings() -> Json:
    text = (DEPLOY / "configmap.yaml").read_text()
    (content,) = yaml.safe_load(text)["data"].values()
    read: Json = yaml.safe_load(content)
    return read


def write(bundle: Path, root: Path, sources: Mapping[str, Path]) -> None:
    """``sources``: where volumes are that are not what the manifest says, by their names.

    The image's entry point and variables are read from the Dockerfile's own words.
    """
    spec = pod_spec()
    (container,) = spec["containers"]
    assert spec["hostNetwork"], "namespaces below are those of a pod of the host's network"
    assert spec["hostPID"], "the same"
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    rights = container["securityContext"]
    assert rights["capabilities"]["drop"] == ["ALL"]
    names = [f"CAP_{name}" for name in rights["capabilities"]["add"]]
    config: Json = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": rights["runAsUser"], "gid": rights["runAsGroup"]},
            "args": ["podtally", *container["args"]],
            "env": [*_image_variables(), "NODE_NAME=node-1"],
            "cwd": "/",
            "capabilities": {kind: names for kind in ("bounding", "effective", "permitted")},
            "noNewPrivileges": not rights["allowPrivilegeEscalation"],
        },
        "root": {"path": str(root), "readonly": rights["readOnlyRootFilesystem"]},
        "hostname": "node-1",
        "mounts": [*_runtime_mounts(), *_mounts(spec, container, sources)],
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
            "seccomp": seccomp(json.loads(SECCOMP.read_text()), names),
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
        },
    }
    (bundle / "config.json").write_text(json.dumps(config, indent=1))


def _image_variables() -> list[str]:
    text = (DEPLOY.parents[1] / "Dockerfile").read_text().replace("\\\n", " ")
    last_stage = text.rpartition("\nFROM ")[2]
    lines = [line.removeprefix("ENV ") for line in last_stage.splitlines() if line[:4] == "ENV "]
    assert lines
    return [word for line in lines for word in line.split()]


def _runtime_mounts() -> list[Json]:
    tmpfs = {"type": "tmpfs", "source": "tmpfs"}
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", **tmpfs, "options": ["nosuid", "mode=755"]},
        {"destination": "/dev/shm", **tmpfs, "options": [*_DEVICES, "nodev", "mode=1777"]},
        {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["bind", "ro"]},
    ]


def _mounts(spec: Json, container: Json, sources: Mapping[str, Path]) -> list[Json]:
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    return [_mount(each, volumes[each["name"]], sources) for each in container["volumeMounts"]]


def _mount(mount: Json, volume: Json, sources: Mapping[str, Path]) -> Json:
    target, name = mount["mountPath"], volume["name"]
    if "emptyDir" in volume:
        assert volume["emptyDir"]["medium"] == "Memory"
        return {"destination": target, "type": "tmpfs", "source": "tmpfs"}
    source = sources.get(name) or Path(volume["hostPath"]["path"])
    slave = mount.get("mountPropagation") == "HostToContainer"
    options = ["rbind", "rslave" if slave else "rprivate", "ro" if mount.get("readOnly") else "rw"]
    return {"destination": target, "type": "bind", "source": str(source), "options": options}


def seccomp(profile: Json, capabilities: list[str]) -> Json:
    """The profile as a runtime hands it on: what depends on capabilities or the machine is
    decided (containers/common, pkg/seccomp: ``setupSeccomp``).

    Debian 12's allows bpf(2) and perf_event_open(2) with CAP_SYS_ADMIN only; here as in Docker's
    and containerd's, which allow them with CAP_BPF and CAP_PERFMON (moby,
    profiles/seccomp/default.json).
    """
    machine = _ARCHITECTURES.get(platform.machine(), platform.machine())

    def holds(condition: Json) -> bool:
        caps, arches = condition.get("caps"), condition.get("arches")
        return (caps is None or set(caps) <= set(capabilities)) and (
            arches is None or machine in arches
        )

    allowed = [name for name, each in _BY_CAPABILITY.items() if each in capabilities]
    rules: list[Json] = [{"names": allowed, "action": "SCMP_ACT_ALLOW"}] if allowed else []
    for rule in profile["syscalls"]:
        excludes = rule.get("excludes") or {}
        if not holds(rule.get("includes") or {}) or (excludes and holds(excludes)):
            continue
        given = {key: rule[key] for key in ("action", "args", "errnoRet") if rule.get(key)}
        rules.append(
            {**given, "names": [name for name in rule["names"] if name not in _BY_CAPABILITY]}
        )
    default: Json = {key: profile[key] for key in _DEFAULTS if key in profile}
    return default | {"syscalls": rules}
