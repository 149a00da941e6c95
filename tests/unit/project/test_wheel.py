# SPDX-License-Identifier: Apache-2.0
"""What `pip install .` installs, and what it leaves behind."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GENERATED = ROOT / "agent/podtally/generated"  # by scripts/generate-cli
MODULES = ROOT / "agent" / "podtally"


def listing(directory: Path) -> set[Path]:
    paths = (path.relative_to(directory) for path in directory.rglob("*"))
    return {path for path in paths if "__pycache__" not in path.parts}  # of the build hook


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is built from, beside what an earlier build by setuptools left."""
    copy = tmp_path_factory.mktemp("wheel") / "checkout"
    shutil.copytree(
        ROOT / "agent", copy / "agent", symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "bpf", copy / "bpf")
    for name in ("pyproject.toml", "hatch_build.py", "README.md", ".gitignore", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "LICENSES", copy / "LICENSES")
    (copy / "scripts").mkdir()
    for name in ("build-programs", "lib.sh"):
        shutil.copy(ROOT / "scripts" / name, copy / "scripts" / name)
    for left in ("build/lib/podtally/gone.py", "agent/podtally.egg-info/SOURCES.txt"):
        (copy / left).parent.mkdir(parents=True, exist_ok=True)
        (copy / left).write_text("podtally/gone.py\n")
    return copy


def test_a_wheel_is_of_the_sources_alone_and_leaves_nothing(checkout: Path, tmp_path: Path) -> None:
    before = listing(checkout)

    words = ["pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir"]
    subprocess.run([sys.executable, "-m", *words, tmp_path, checkout], check=True)

    assert listing(checkout) == before
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(MODULES.parent)) for path in MODULES.rglob("*.py")}
    programs = {f"podtally/bpf/{path.name}" for path in (ROOT / "bpf").glob("*.[ch]")}
    generated = {f"podtally/generated/{path.name}" for path in GENERATED.iterdir()}
    built = {"podtally/bpf/podtally.json", "podtally/py.typed"}
    assert packed == modules | programs | generated | built
