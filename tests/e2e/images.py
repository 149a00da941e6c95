# SPDX-License-Identifier: Apache-2.0
"""An image made on the spot from a static busybox, and containers of it without an engine."""

import io
import json
import platform
import shutil
import tarfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # as Go names them
BLOB_BYTES = 100_003  # of /www/blob
APPLETS = ("sh", "sleep", "nc", "wget", "httpd", "true")


def write_image(path: Path, name: str) -> None:
    """A docker-archive (the form of ``docker save``) of one layer; it sleeps unless given a command."""
    layer = _layer()
    config = json.dumps(
        {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Cmd": ["/bin/sleep", "100000"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha256(layer).hexdigest()]},
        }
    ).encode()
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        _add(archive, "config.json", config)
        _add(archive, "layer.tar", layer)
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def write_bundle(bundle: Path, cgroup: str, command: Sequence[str]) -> None:
    """What runc wants of a container: a root directory and config.json."""
    root = bundle / "rootfs"
    for directory in ("bin", "www", "proc"):
        (root / directory).mkdir(parents=True)
    shutil.copy(_busybox(), root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "www/blob").write_bytes(bytes(BLOB_BYTES))
    namespaces = [{"type": kind} for kind in ("pid", "network", "mount", "ipc", "uts")]
    config = {
        "ociVersion": "1.0.2",
        "process": {"args": list(command), "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": namespaces, "cgroupsPath": cgroup},
    }  # fmt: skip
    (bundle / "config.json").write_text(json.dumps(config))


def _layer() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        _add(layer, "bin/busybox", _busybox().read_bytes(), 0o755)
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(link)
        _add(layer, "www/blob", bytes(BLOB_BYTES))
    return buffer.getvalue()


def _busybox() -> Path:
    found = shutil.which("busybox")
    assert found is not None
    return Path(found)


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))
