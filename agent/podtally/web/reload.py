# SPDX-License-Identifier: Apache-2.0
"""Holds the web configuration in force, and reloads it when its files change."""

import logging
import ssl
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import msgspec

from podtally.errors import PodtallyError
from podtally.supervision.conditions import Condition
from podtally.web.auth import Users, credentials
from podtally.web.config import (
    NO_CERTIFICATE,
    REQUIRED,
    TlsServerConfig,
    WebConfig,
    read_web_config,
)
from podtally.web.tls import Pem, read_pem, server_context

log = logging.getLogger(__name__)

CHECK_INTERVAL_SECONDS = 1.0


class WebFiles(NamedTuple):
    """The content of the files, to be compared with a later version."""

    config: WebConfig
    pem: Pem | None


class WebSettings(NamedTuple):
    """What the server uses, made from the files."""

    files: WebFiles
    context: ssl.SSLContext | None = None
    users: Users | None = None

    @property
    def tls(self) -> TlsServerConfig | None:
        return self.files.config.tls

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every reply."""
        headers = self.files.config.http_server_config.headers
        return {name: value for name, value in headers.items() if value}

    @property
    def authenticates(self) -> bool:
        """Return whether every client must present a password or a certificate."""
        tls = self.tls
        return self.users is not None or (tls is not None and tls.client_auth_type == REQUIRED)

    def authenticate(self, authorization: str) -> HTTPStatus:
        """Return OK, or the status to reply with, for an ``Authorization`` header."""
        if self.users is None:
            return HTTPStatus.OK
        given = credentials(authorization)
        return HTTPStatus.UNAUTHORIZED if given is None else self.users.authenticate(given)


_PLAIN = WebSettings(WebFiles(WebConfig(), None))


def load(path: Path) -> WebSettings:
    """Read the configuration and the files that it names; PodtallyError."""
    return _made(_read(path), _PLAIN)


class WebConfigWatch:
    """Reloads the web configuration while it is used.

    At most one thread a second checks the files; no other waits for it. An invalid version
    changes nothing, and is logged once.
    """

    def __init__(self, path: Path | None) -> None:
        """Without a path, nothing is protected; PodtallyError."""
        self._path = path
        self._current = load(path) if path else _PLAIN
        self._seen = self._current.files
        self._failing = Condition(log)
        self._check_at = time.monotonic() + CHECK_INTERVAL_SECONDS
        self._checking = threading.Lock()

    def current(self) -> WebSettings:
        if self._path is not None and time.monotonic() >= self._check_at:
            self._check(self._path)
        return self._current

    def _check(self, path: Path) -> None:
        if not self._checking.acquire(blocking=False):
            return
        try:
            self._reload(path)
            self._check_at = time.monotonic() + CHECK_INTERVAL_SECONDS
        finally:
            self._checking.release()

    def _reload(self, path: Path) -> None:
        try:
            files = _read(path)
            if files == self._seen and not self._failing.is_met:
                return
            if files != self._current.files:
                _refuse_weaker(path, self._current.files.config, files.config)
                self._current = _made(files, self._current)
        except PodtallyError as error:
            self._failing.met(
                "cannot reload the web configuration, the last one stays in force: %s", error
            )
            return
        self._seen = files
        if self._failing.is_met:
            self._failing.over("reloaded the web configuration %s", path)
        else:
            log.info("reloaded the web configuration %s", path)


def _read(path: Path) -> WebFiles:
    config = read_web_config(path)
    return WebFiles(config, read_pem(config.tls) if config.tls else None)


def _made(files: WebFiles, before: WebSettings) -> WebSettings:
    config, pem = files
    context = server_context(config.tls, pem) if config.tls and pem else None
    users = before.users  # keeps the verified passwords
    if config.users != before.files.config.users:
        users = Users(config.users) if config.users else None
    return WebSettings(files, context, users)


def _refuse_weaker(path: Path, before: WebConfig, after: WebConfig) -> None:
    """Refuse a version without a protection that the last one had: it may be half-written."""
    for what, had, has in zip(_LAYERS, _layers(before), _layers(after), strict=True):
        if had and not has:
            raise PodtallyError(
                f"{path}: {what} was removed",
                "restart the agent if that is intended, or restore it",
            )


_LAYERS = (
    *("tls_server_config", "client_auth_type", "RequireAndVerifyClientCert"),
    *("client_allowed_sans", "basic_auth_users"),
)


def _layers(config: WebConfig) -> tuple[bool, ...]:
    tls = config.tls
    return (
        tls is not None,
        tls is not None and tls.client_auth_type != NO_CERTIFICATE,
        tls is not None and tls.client_auth_type == REQUIRED,
        tls is not None and tls.client_allowed_sans is not msgspec.UNSET,
        bool(config.users),
    )
