"""What cgroup paths say, as kubelets, container runtimes and systemd write them."""

import pytest

from podtally.identity.cgroups import Found, read, read_file

UID = "1f6c9b1e-5d2a-4e1b-9c3d-0123456789ab"
ID = "0123456789abcdef" * 4
SHORT = ID[:12]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (f"/kubepods/besteffort/pod{UID}/{ID}", Found("pod", UID)),
        (f"/kubepods/pod{UID}", Found("pod", UID)),
        (
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice/cri-containerd-{ID}.scope",
            Found("pod", UID),
        ),
        (f"/system.slice/docker-{ID}.scope", Found("docker", SHORT)),
        (f"/docker/{ID}", Found("docker", SHORT)),
        (f"/machine.slice/libpod-{ID}.scope/container", Found("podman", SHORT)),
        (f"/system.slice/cri-containerd-{ID}.scope", Found("containerd", SHORT)),
        (f"/system.slice/crio-{ID}.scope", Found("cri-o", SHORT)),
        (f"/{ID}", Found("container", SHORT)),
        ("/lxc.payload.web/init.scope", Found("lxc", "web")),
        ("/lxc/web", Found("lxc", "web")),
        ("/system.slice/nginx.service", Found("systemd", "nginx.service")),
        (
            "/system.slice/system-getty.slice/getty@tty1.service",
            Found("systemd", "getty@tty1.service"),
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice",
            Found("systemd", "user@1000.service"),
        ),
        (f"/system.slice/docker.service/docker/{ID}", Found("docker", SHORT)),
        ("/", None),
        ("/init.scope", None),
        ("/user.slice/user-1000.slice/session-1.scope", None),
        (f"/docker/{ID[:-1]}", None),  # an id has 64 digits
        (f"/docker/{ID}0", None),
        ("/kubepods/podnone", None),
    ],
)
def test_a_path(path: str, found: Found | None) -> None:
    assert read(path) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"0::/kubepods/pod{UID}/{ID}\n", Found("pod", UID)),
        ("0::/\n", None),
        ("", None),
        ("not a cgroup file\n", None),
        (
            f"1:name=systemd:/system.slice/kubelet.service\n4:memory:/docker/{ID}\n",
            Found("docker", SHORT),
        ),
        (f"4:memory:/docker/{ID}\n3:cpu,cpuacct:/kubepods/pod{UID}\n", Found("pod", UID)),
        ("2:cpu:/\n1:name=systemd:/system.slice/a:b.service\n", Found("systemd", "a:b.service")),
    ],
)
def test_a_file_of_one_or_all_hierarchies(text: str, found: Found | None) -> None:
    assert read_file(text) == found
