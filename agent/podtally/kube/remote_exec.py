# SPDX-License-Identifier: Apache-2.0
"""Runs a command in a pod's container, through the API server; without standard input."""

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlencode

import msgspec

from podtally.kube.access import Access
from podtally.kube.http import BrokenError
from podtally.kube.pod_channels import PodChannels

_OUT, _ERROR, _STATUS = 1, 2, 3
_SUCCESS = "Success"
_EXIT_CODE = "ExitCode"


class ExecResult(NamedTuple):
    code: int
    out: bytes
    error: bytes


class _Cause(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct, frozen=True):
    causes: list[_Cause] = []


class _ExecOutcome(msgspec.Struct, frozen=True):
    status: str = ""
    message: str = ""
    details: _Details = _Details()


def run_in_pod(
    access: Access, pod: str, container: str, command: Sequence[str], timeout_seconds: float
) -> ExecResult:
    """Return what the command printed, and its exit code; ApiError, ContactError.

    ``pod``: the path of the pod in the API. ``timeout_seconds`` without any output.
    """
    query = [("container", container), ("stdout", "true"), ("stderr", "true")]
    query += [("command", word) for word in command]
    return read_output(access, f"{pod}/exec?{urlencode(query)}", timeout_seconds)


def read_output(access: Access, target: str, timeout_seconds: float) -> ExecResult:
    """Start the command that ``target`` stands for, and return what it printed."""
    channels = PodChannels(access, target, timeout_seconds)
    parts: dict[int, bytearray] = {_OUT: bytearray(), _ERROR: bytearray(), _STATUS: bytearray()}
    try:
        while True:
            channel, data = channels.receive()
            parts.setdefault(channel, bytearray()).extend(data)
    except EOFError:
        pass
    finally:
        channels.close()
    return ExecResult(_code(bytes(parts[_STATUS])), bytes(parts[_OUT]), bytes(parts[_ERROR]))


def _code(status: bytes) -> int:
    """Return the exit code in the last message; BrokenError without one."""
    try:
        outcome = msgspec.json.decode(status, type=_ExecOutcome)
    except msgspec.DecodeError:
        raise BrokenError("the command's end was not reported") from None
    if outcome.status == _SUCCESS:
        return 0
    for cause in outcome.details.causes:
        if cause.reason == _EXIT_CODE and cause.message.isdecimal():
            return int(cause.message)
    raise BrokenError(outcome.message or "the command could not be run")
