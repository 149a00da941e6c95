# SPDX-License-Identifier: Apache-2.0
"""Reads a kubeconfig's context as kubectl does, and returns an Access.

Unsupported fields (proxies, impersonation, auth-provider) are errors: without them the agent
would connect to another server, or as another user, than the file says.
"""

import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from podtally.errors import PodtallyError
from podtally.kube.access import Access, ApiServerAddress
from podtally.kube.credentials import (
    CredentialData,
    CredentialSource,
    FileCredentials,
    basic,
    bearer,
    from_base64,
)
from podtally.kube.exec_plugin import VERSIONS, ClusterInfo, ExecPlugin, Plugin, find_command
from podtally.yamltree.shapes import shape_error

_EXEC_EXTENSION = "client.authentication.k8s.io/exec"
_Part = TypeVar("_Part")


class _Extension(msgspec.Struct, frozen=True):
    name: str = ""
    extension: Any = None


class _ClusterEntry(msgspec.Struct, frozen=True, rename="kebab"):
    server: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    proxy_url: str = ""
    extensions: list[_Extension] | None = None


class _Variable(msgspec.Struct, frozen=True):
    name: str
    value: str


class _Exec(msgspec.Struct, frozen=True, rename="camel"):
    command: str = ""
    args: list[str] | None = None
    env: list[_Variable] | None = None
    api_version: str = ""
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = ""


class _User(msgspec.Struct, frozen=True, rename="kebab"):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    username: str = ""
    password: str = ""
    exec: _Exec | None = None
    auth_provider: Any = None
    impersonate: str = msgspec.field(default="", name="as")


class _Context(msgspec.Struct, frozen=True):
    cluster: str = ""
    user: str = ""


class _NamedCluster(msgspec.Struct, frozen=True):
    name: str
    cluster: _ClusterEntry | None = None


class _NamedUser(msgspec.Struct, frozen=True):
    name: str
    user: _User | None = None


class _NamedContext(msgspec.Struct, frozen=True):
    name: str
    context: _Context | None = None


class _KubeconfigFile(msgspec.Struct, frozen=True, rename="kebab"):
    current_context: str | None = None
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None


def load(path: Path, context: str = "") -> Access:
    """Return the access of a context (default: the current one); PodtallyError if unusable."""
    return load_merged([path], context)


def load_merged(paths: Sequence[Path], context: str = "", interactive: bool = False) -> Access:
    """Return the access of a context of several files, as kubectl merges those of $KUBECONFIG:
    the first file that has an entry, or a current context, wins. ``interactive``: a person
    waits, and a credential plugin may use the terminal.
    """
    files = {path: _read(path) for path in paths}
    listed = ", ".join(map(str, paths))
    wanted = context or next((f.current_context for f in files.values() if f.current_context), "")
    if not wanted:
        raise PodtallyError(f"{listed}: no current-context", "name a context")
    _, chosen = _first(
        [(path, {n.name: n.context for n in file.contexts or ()}) for path, file in files.items()],
        wanted, "contexts", _Context(),
    )  # fmt: skip
    path, cluster = _first(
        [(path, {n.name: n.cluster for n in file.clusters or ()}) for path, file in files.items()],
        chosen.cluster, "clusters", _ClusterEntry(),
    )  # fmt: skip
    server = _server(cluster, path.absolute().parent, f"{path}: cluster {chosen.cluster}")
    user = _User()
    if chosen.user:
        path, user = _first(
            [(path, {n.name: n.user for n in file.users or ()}) for path, file in files.items()],
            chosen.user, "users", user,
        )  # fmt: skip
    reader = _KubeconfigReader(path.absolute().parent, f"{path}: user {chosen.user}", interactive)
    access = Access(server, reader.source(user, cluster, server))
    if server.tls and user.exec is None:  # a plugin may use the network: run it when needed
        access.context(access.credential())
    return access


def _read(path: Path) -> _KubeconfigFile:
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=_KubeconfigFile)
    except OSError as error:
        raise PodtallyError(
            f"cannot read the kubeconfig {path}: {error.strerror}", "check its path and rights"
        ) from None
    except msgspec.ValidationError as error:
        raise shape_error(error, str(path), "see kubectl config view") from None
    except RecursionError:
        raise PodtallyError(f"{path}: nested too deep", "see kubectl config view") from None
    except msgspec.DecodeError as error:  # PyYAML quotes the line, which may have a token
        mark = getattr(error.__context__, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise PodtallyError(f"{where}: not YAML", "fix that line") from None


def _first(
    files: Sequence[tuple[Path, dict[str, _Part | None]]], name: str, field: str, empty: _Part
) -> tuple[Path, _Part]:
    """Return the entry of the first file that has it, and the file."""
    for path, named in files:
        if name in named:
            return path, named[name] or empty
    present = ", ".join(sorted({each for _, named in files for each in named})) or "none"
    listed = ", ".join(str(path) for path, _ in files)
    raise PodtallyError(f"{listed}: {field}: no {name!r}", f"there is: {present}")


def _server(cluster: _ClusterEntry, folder: Path, where: str) -> ApiServerAddress:
    url, port = _split(cluster.server, where)
    if cluster.proxy_url:
        raise PodtallyError(f"{where}: proxy-url is not supported", "use the server's own address")
    ca: CredentialData | None = None
    if cluster.certificate_authority_data:
        field = f"{where}: certificate-authority-data"
        ca = CredentialData(field, data=from_base64(cluster.certificate_authority_data, field))
    elif cluster.certificate_authority:
        ca = CredentialData(
            f"{where}: certificate-authority", folder / cluster.certificate_authority
        )
    if ca and cluster.insecure_skip_tls_verify:
        raise PodtallyError(
            f"{where}: both certificate-authority and insecure-skip-tls-verify", "remove one"
        )
    return ApiServerAddress(
        host=url.hostname or "",
        port=port,
        prefix=url.path.rstrip("/"),
        tls=url.scheme == "https",
        name=cluster.tls_server_name,
        verify=not cluster.insecure_skip_tls_verify,
        ca=ca,
    )


def _split(server: str, where: str) -> tuple[urllib.parse.SplitResult, int]:
    try:
        url = urllib.parse.urlsplit(server)
        port = url.port
    except ValueError:
        port = None
        url = urllib.parse.SplitResult("", "", "", "", "")
    plain = not (url.username or url.password or url.query or url.fragment)
    if url.scheme not in ("https", "http") or not url.hostname or not plain:
        raise PodtallyError(
            f"{where}: server is not the URL of a server",
            "write it as in https://203.0.113.1:6443",
        )
    return url, port or (443 if url.scheme == "https" else 80)


@dataclass(frozen=True)
class _KubeconfigReader:
    """Makes a user's credential source; paths are relative to the kubeconfig's folder."""

    folder: Path
    where: str
    interactive: bool = False

    def source(
        self, user: _User, cluster: _ClusterEntry, server: ApiServerAddress
    ) -> CredentialSource:
        self._check(user)
        if user.exec is not None:
            return ExecPlugin(self._plugin(user.exec, cluster, server))
        certificate = self._data(
            "client-certificate", user.client_certificate, user.client_certificate_data
        )
        key = self._data("client-key", user.client_key, user.client_key_data)
        if (certificate is None) != (key is None):
            raise PodtallyError(
                f"{self.where}: a client certificate or a client key, not both", "set both"
            )
        token: CredentialData | None = None
        authorization = ""
        if user.token_file:  # with both, the file's content takes precedence (kubeconfig.v1)
            token = CredentialData(f"{self.where}: tokenFile", self.folder / user.token_file)
        elif user.token:
            authorization = bearer(user.token, f"{self.where}: token")
        elif user.username:
            authorization = basic(user.username, user.password)
        return FileCredentials(authorization, token, certificate, key)

    def _check(self, user: _User) -> None:
        if user.auth_provider is not None:
            raise PodtallyError(
                f"{self.where}: auth-provider is not supported", "use an exec plugin"
            )
        if user.impersonate:
            raise PodtallyError(
                f"{self.where}: impersonation (as) is not supported",
                "use a user with rights of its own",
            )
        methods = {
            "token": user.token or user.token_file,
            "username": user.username,
            "exec": user.exec,
        }
        given = [name for name, value in methods.items() if value]
        if len(given) > 1:
            raise PodtallyError(f"{self.where}: both {' and '.join(given)}", "keep one")

    def _data(self, name: str, path: str, data: str) -> CredentialData | None:
        if data:
            field = f"{self.where}: {name}-data"
            return CredentialData(field, data=from_base64(data, field))
        return CredentialData(f"{self.where}: {name}", self.folder / path) if path else None

    def _plugin(self, plugin: _Exec, cluster: _ClusterEntry, server: ApiServerAddress) -> Plugin:
        where = f"{self.where}: exec"
        if not plugin.command:
            raise PodtallyError(f"{where}: no command", "name the plugin")
        if plugin.api_version not in VERSIONS:
            raise PodtallyError(
                f"{where}: apiVersion {plugin.api_version!r} is not supported",
                f"use {' or '.join(VERSIONS)}",
            )
        if plugin.interactive_mode == "Always" and not self.interactive:
            raise PodtallyError(
                f"{where}: interactiveMode is Always, but an agent has no terminal",
                "use a plugin that needs none",
            )
        info = _cluster_info(cluster, server) if plugin.provide_cluster_info else None
        return Plugin(
            where=where,
            command=find_command(plugin.command, self.folder),
            arguments=tuple(plugin.args or ()),
            environment=tuple((each.name, each.value) for each in plugin.env or ()),
            api_version=plugin.api_version,
            install_hint=plugin.install_hint.strip(),
            cluster=info,
            interactive=self.interactive and plugin.interactive_mode != "Never",
        )


def _cluster_info(cluster: _ClusterEntry, server: ApiServerAddress) -> ClusterInfo:
    extensions = {each.name: each.extension for each in cluster.extensions or ()}
    return ClusterInfo(
        server=cluster.server,
        tls_server_name=cluster.tls_server_name,
        insecure_skip_tls_verify=cluster.insecure_skip_tls_verify,
        certificate_authority_data=server.ca.read() if server.ca else b"",
        config=extensions.get(_EXEC_EXTENSION),
    )
