# SPDX-License-Identifier: Apache-2.0
"""Runs a client-go credential plugin, and runs it again when its credential has expired.

Follows the ExecCredential reference of client.authentication.k8s.io, v1 and v1beta1.
"""

import contextlib
import datetime
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from podtally.errors import PodtallyError
from podtally.kube.credentials import Credential, bearer

VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_EARLY_SECONDS = 10  # renew before expiry, so that a credential does not expire in transit
_RUN_SECONDS = 60  # a plugin may query a cloud; one that prompts a person never ends
_LOGIN_SECONDS = 600  # to log in, where there is a person
_MAX_STDERR_CHARACTERS = 200


class ClusterInfo(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    """``spec.cluster``, passed to a plugin with provideClusterInfo."""

    server: str
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False
    certificate_authority_data: bytes = b""
    config: Any = None  # the extension client.authentication.k8s.io/exec, unchanged


class _ExecSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    interactive: bool
    cluster: ClusterInfo | None = None


class _Request(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    spec: _ExecSpec
    kind: str = "ExecCredential"


class _ExecStatus(msgspec.Struct, frozen=True, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime.datetime | None = None


class _PluginRun(msgspec.Struct, frozen=True, rename="camel"):
    kind: str = ""
    api_version: str = ""
    status: _ExecStatus | None = None


@dataclass(frozen=True)
class Plugin:
    """How to run a plugin: ``users[].user.exec`` of a kubeconfig."""

    where: str  # file and field, for errors
    command: str  # a path, or a name to be found in PATH
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = field(repr=False)  # may carry secrets
    api_version: str
    install_hint: str
    cluster: ClusterInfo | None
    interactive: bool = False  # a person waits: it may use the terminal


class ExecPlugin:
    """A ``credentials.Source`` that runs a command."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._lock = threading.Lock()
        self._credential: Credential | None = None
        self._expires: float | None = None  # seconds since 1970
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def get(self) -> Credential:
        with self._lock:
            expired = self._expires is not None and time.time() > self._expires - _EARLY_SECONDS
            if self._credential is None or expired:
                self._credential = self._credential_of(self._run_plugin())
            return self._credential

    def renew(self, refused: Credential) -> None:
        with self._lock:
            if self._credential == refused:
                self._credential = None

    def close(self) -> None:
        self._closed = True
        process = self._process
        if process is not None:
            _kill(process)

    def _run_plugin(self) -> _ExecStatus:
        plugin = self._plugin
        output = self._run()
        try:
            answer = msgspec.json.decode(output, type=_PluginRun)
        except msgspec.DecodeError:  # its message might quote a secret
            raise PodtallyError(
                f"{plugin.where}: {plugin.command} did not print an ExecCredential",
                f"it must print one of {plugin.api_version} as JSON",
            ) from None
        if (answer.kind, answer.api_version) != ("ExecCredential", plugin.api_version):
            raise PodtallyError(
                f"{plugin.where}: {plugin.command} printed "
                f"{answer.api_version or 'no apiVersion'} {answer.kind}",
                f"expected {plugin.api_version} ExecCredential: fix apiVersion",
            )
        if answer.status is None:
            raise PodtallyError(
                f"{plugin.where}: {plugin.command} printed no status", "log in for it first"
            )
        return answer.status

    def _credential_of(self, status: _ExecStatus) -> Credential:
        where = f"{self._plugin.where}: output of {self._plugin.command}"
        if bool(status.client_certificate_data) != bool(status.client_key_data):
            raise PodtallyError(f"{where}: a certificate or a key, not both", "it must print both")
        if not status.token and not status.client_key_data:
            raise PodtallyError(f"{where}: neither token nor certificate", "log in for it first")
        expires = status.expiration_timestamp
        self._expires = expires.timestamp() if expires else None
        return Credential(
            bearer(status.token, where) if status.token else "",
            status.client_certificate_data.encode(),
            status.client_key_data.encode(),
        )

    def _run(self) -> bytes:
        plugin = self._plugin
        request = _Request(plugin.api_version, _ExecSpec(plugin.interactive, plugin.cluster))
        environment = os.environ | dict(plugin.environment)
        environment["KUBERNETES_EXEC_INFO"] = msgspec.json.encode(request).decode()
        try:
            process = subprocess.Popen(
                [plugin.command, *plugin.arguments],
                stdin=None if plugin.interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=None if plugin.interactive else subprocess.PIPE,
                env=environment,
                # A group of its own is killed with its children, but cannot read the terminal.
                process_group=None if plugin.interactive else 0,
            )
        except OSError as error:
            raise PodtallyError(
                f"{plugin.where}: cannot run {plugin.command}: {error.strerror}",
                plugin.install_hint or "install it, or fix command",
            ) from None
        self._process = process
        if self._closed:  # meanwhile
            _kill(process)
        seconds = _LOGIN_SECONDS if plugin.interactive else _RUN_SECONDS
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _kill(process)
            process.communicate()
            raise PodtallyError(
                f"{plugin.where}: {plugin.command} did not end in {seconds} s",
                "it must not prompt",
            ) from None
        finally:
            self._process = None
        if process.returncode:
            raise PodtallyError(
                f"{plugin.where}: {plugin.command} failed with {process.returncode}"
                f"{_last_line(errors)}",
                plugin.install_hint or "run it by hand",
            )
        return output


def find_command(command: str, folder: Path) -> str:
    """Return ``command`` as kubectl finds it: a relative path starts at the kubeconfig."""
    return str(folder / command) if "/" in command else command


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:  # else its pid may be another process's
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()


def _last_line(errors: bytes | None) -> str:
    lines = (errors or b"").decode(errors="replace").strip().splitlines()
    return f": {lines[-1][:_MAX_STDERR_CHARACTERS]}" if lines else ""
