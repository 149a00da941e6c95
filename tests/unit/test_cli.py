"""The command line: what each command is told, and how it ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from podtally import __version__, cli
from podtally.errors import PodtallyError


def run(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "podtally", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_has_an_example_and_the_exit_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    _, _, example = told.partition("\nexample")
    assert f"podtally {command}" in example
    assert "exit codes:" in example.lower()


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    told = capsys.readouterr().out
    assert all(command in told and text in told for command, (_, text) in cli.COMMANDS.items())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"podtally {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["walk"],
        ["run", "--epochs", "1"],
        ["run", "--attach", "xdp"],
        ["run", "--epoch", "soon"],
    ],
)
def test_wrong_use_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == cli.WRONG_USE
    assert "usage: podtally" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--epoch", "0"], "--epoch"),
        (["run", "--max-flows", "0"], "--max-flows"),
        (["run", "--listen", "nowhere"], "nowhere"),
        (["detach", "--config", "/nonexistent/podtally.yaml"], "/nonexistent/podtally.yaml"),
    ],
)
def test_what_cannot_be_run_is_one_line(arguments: list[str], words: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (cli.WRONG_USE, "")
    assert words in err
    assert err.startswith("podtally: ")
    assert err.count("\n") == 1


def test_a_bad_key_in_the_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "podtally.yaml"
    file.write_text("epohc: 1\n")
    code, _, err = run("run", "--config", str(file))
    assert code == cli.WRONG_USE
    assert err.count("\n") == 1
    assert str(file) in err
    assert "epohc" in err


class Command:
    """In the place of a command's module."""

    def __init__(self, end: BaseException | int) -> None:
        self._end = end

    def add_arguments(self, _: object) -> None:
        """None."""

    def main(self, _: object) -> int:
        if isinstance(self._end, BaseException):
            raise self._end
        return self._end


@pytest.mark.parametrize(
    ("end", "code", "err"),
    [
        (0, cli.FINE, ""),
        (1, cli.FINDING, ""),
        (
            PodtallyError("it is broken", "mend it"),
            cli.WRONG_USE,
            "podtally: it is broken; mend it\n",
        ),
        (KeyboardInterrupt(), cli.INTERRUPTED, ""),
    ],
)
def test_exit_codes(
    end: BaseException | int,
    code: int,
    err: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli, "_module", lambda _: Command(end))
    assert cli.main(["run"]) == code
    assert capsys.readouterr().err == err


def test_any_other_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_module", lambda _: Command(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        cli.main(["run"])


@pytest.mark.parametrize("module", ["podtally.cli", "podtally.commands.run"])
def test_help_needs_none_of_the_agent(module: str) -> None:
    """LLVM alone, in bcc, is 65 MB, and a second of anybody's time who only asks for --help."""
    heavy = "numpy bcc pyroute2 psutil prometheus_client podtally.agent podtally.kernel.bpf"
    code = f"import sys, {module}; print(*[m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == ""


def test_who_reads_no_more_is_no_error(tmp_path: Path) -> None:
    """Also where the output is so short that it is written at the end only."""
    (tmp_path / "fine.yaml").write_text("epoch: 1\n")
    reader, writer = os.pipe()
    os.close(reader)
    variables = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open(writer, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "podtally", "config", "check", str(tmp_path / "fine.yaml")],
            stdout=nobody, stderr=subprocess.PIPE, check=False, env=variables, timeout=300,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
