# SPDX-License-Identifier: Apache-2.0
"""Which headers are chosen, in trees laid out as distributions lay them out."""

import platform
from pathlib import Path

import pytest

from podtally.kernel import headers

ARCH = {"x86_64": "x86", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
RELEASE = "6.18.0-own"


def add_tree(path: Path) -> Path:
    """Make a configured tree, as far as it is looked at."""
    (path / "include/generated").mkdir(parents=True)
    (path / "include/generated/autoconf.h").write_text("#define CONFIG_BPF 1\n")
    (path / "arch" / ARCH / "include/generated").mkdir(parents=True)
    return path


def add_debian(root: Path, version: str) -> tuple[Path, Path]:
    """Lay out linux-headers-VERSION-amd64 and -common, and the links to them."""
    build = add_tree(root / f"usr/src/linux-headers-{version}-amd64")
    common = root / f"usr/src/linux-headers-{version}-common"
    (common / "include/uapi/linux").mkdir(parents=True)
    (common / "include/uapi/linux/bpf.h").write_text("/* bpf */\n")
    (common / "include/generated").mkdir()
    (common / "include/generated/shared.h").write_text("/* shared */\n")
    (common / "arch" / ARCH / "include/asm").mkdir(parents=True)
    modules = root / f"lib/modules/{version}-amd64"
    modules.mkdir(parents=True)
    (modules / "build").symlink_to(build)
    (modules / "source").symlink_to(common)
    return build, common


def find(root: Path, environ: dict[str, str] | None = None) -> headers.Headers | None:
    return headers.find(root, RELEASE, environ or {})


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert find(tmp_path) is None


def test_the_environment_goes_first(tmp_path: Path) -> None:
    add_tree(tmp_path / f"lib/modules/{RELEASE}/build")
    found = find(tmp_path, {"BCC_KERNEL_SOURCE": "/mine"})
    assert found is not None
    assert found.own
    assert found.where.startswith("/mine")


def test_the_running_kernels_own_are_left_to_bcc(tmp_path: Path) -> None:
    own = add_tree(tmp_path / f"lib/modules/{RELEASE}/build")
    add_debian(tmp_path, "7.0.0-1")
    assert find(tmp_path) == headers.Headers(str(own))


def test_a_dangling_build_link_is_no_tree(tmp_path: Path) -> None:
    modules = tmp_path / f"lib/modules/{RELEASE}"
    modules.mkdir(parents=True)
    (modules / "build").symlink_to(tmp_path / "usr/src/kernels/never-installed")
    assert find(tmp_path) is None


def test_ikheaders_are_left_to_bcc(tmp_path: Path) -> None:
    archive = tmp_path / "sys/kernel/kheaders.tar.xz"
    archive.parent.mkdir(parents=True)
    archive.touch()
    add_debian(tmp_path, "7.0.0-1")
    assert find(tmp_path) == headers.Headers(str(archive))


def test_the_newest_other_tree_is_taken_by_number_not_by_letter(tmp_path: Path) -> None:
    add_debian(tmp_path, "6.1.0-9")
    build, common = add_debian(tmp_path, "6.1.0-23")
    found = find(tmp_path)
    assert found is not None
    assert (found.build, found.source, found.own) == (build, common, False)


def test_the_common_tree_is_found_without_links(tmp_path: Path) -> None:
    build, common = add_debian(tmp_path, "6.1.0-23")
    for link in (tmp_path / "lib/modules/6.1.0-23-amd64").iterdir():
        link.unlink()
    found = find(tmp_path)
    assert found is not None
    assert (found.build, found.source) == (build, common)


def test_ubuntus_generic_tree_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "usr/src/linux-headers-6.8.0-31/include").mkdir(parents=True)  # not configured
    generic = add_tree(tmp_path / "usr/src/linux-headers-6.8.0-31-generic")
    found = find(tmp_path)
    assert found is not None
    assert (found.build, found.source) == (generic, None)
    with headers.prepared(found) as environment:
        assert environment == {"BCC_KERNEL_SOURCE": str(generic)}


def test_another_machines_tree_is_not_taken(tmp_path: Path) -> None:
    foreign = tmp_path / "usr/src/linux-headers-6.1.0-23-other"
    (foreign / "include/generated").mkdir(parents=True)
    (foreign / "include/generated/autoconf.h").touch()
    (foreign / "arch/other/include").mkdir(parents=True)
    assert find(tmp_path) is None


def test_split_trees_are_shown_as_one_and_removed_again(tmp_path: Path) -> None:
    add_debian(tmp_path, "6.1.0-23")
    found = find(tmp_path)
    assert found is not None
    with headers.prepared(found) as environment:
        merged = Path(environment["BCC_KERNEL_SOURCE"])
        assert (merged / "include/uapi/linux/bpf.h").read_text() == "/* bpf */\n"
        generated = {path.name for path in (merged / "include/generated").iterdir()}
        assert generated == {"autoconf.h", "shared.h"}
        arch = {path.name for path in (merged / "arch" / ARCH / "include").iterdir()}
        assert arch == {"asm", "generated"}
    assert not merged.exists()
    assert (tmp_path / "usr/src/linux-headers-6.1.0-23-common/include/uapi/linux/bpf.h").exists()


def test_own_headers_need_no_variable(tmp_path: Path) -> None:
    with headers.prepared(headers.Headers("anywhere")) as environment:
        assert environment == {}


@pytest.mark.parametrize(
    ("os_release", "package"),
    [
        ("ID=debian\n", "linux-headers-"),
        ("ID=ubuntu\nID_LIKE=debian\n", "linux-headers-generic"),
        ('ID="almalinux"\nID_LIKE="rhel centos fedora"\n', "kernel-devel"),
        ("ID=alpine\n", "the distribution's package"),
    ],
)
def test_the_fix_names_the_distributions_package(
    tmp_path: Path, os_release: str, package: str
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(os_release)
    assert package in headers.missing(tmp_path).fix


def test_the_fix_does_without_os_release(tmp_path: Path) -> None:
    assert "kernel headers" in headers.missing(tmp_path).fix
