# SPDX-License-Identifier: Apache-2.0
"""Keeps what is in force of the web configuration, and reads it again when its files change."""

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
    """All that the files say; what is equal need not be made anew."""

    config: WebConfig
    pem: Pem | None


class WebSettings(NamedTuple):
    """What the server goes by."""

    written: WebFiles
    context: ssl.SSLContext | None = None
    users: Users | None = None

    @property
    def tls(self) -> TlsServerConfig | None:
        return self.written.config.tls

    @property
    def headers(self) -> dict[str, str]:
        """Those to be sent with every answer."""
        told = self.written.config.http_server_config.headers
        return {name: value for name, value in told.items() if value}

    @property
    def authenticates(self) -> bool:
        """Whether every client that enters has shown a password or a certificate."""
        tls = self.tls
        return self.users is not None or (tls is not None and tls.client_auth_type == REQUIRED)

    def judge(self, authorization: str) -> HTTPStatus:
        """Tell whether somebody with such a header may enter: OK, or what to answer."""
        if self.users is None:
            return HTTPStatus.OK
        given = credentials(authorization)
        return HTTPStatus.UNAUTHORIZED if given is None else self.users.judge(given)


_PLAIN = WebSettings(WebFiles(WebConfig(), None))


def load(path: Path) -> WebSettings:
    """Read the configuration and all that it names; PodtallyError."""
    return _made(_read(path), _PLAIN)


class WebConfigWatch:
    """Whoever asks what is in force may find that it has changed: at most one a second looks,
    and nobody waits for it. A version that cannot be used changes nothing, and is logged once.
    """

    def __init__(self, path: Path | None) -> None:
        """Without a path, nothing is protected. PodtallyError."""
        self._path = path
        self._in_force = load(path) if path else _PLAIN
        self._seen = self._in_force.written
        self._trouble = Condition(log)
        self._look_at = time.monotonic() + CHECK_INTERVAL_SECONDS
        self._looking = threading.Lock()

    def now(self) -> WebSettings:
        if self._path is not None and time.monotonic() >= self._look_at:
            self._look(self._path)
        return self._in_force

    def _look(self, path: Path) -> None:
        if not self._looking.acquire(blocking=False):
            return
        try:
            self._take(path)
            self._look_at = time.monotonic() + CHECK_INTERVAL_SECONDS
        finally:
            self._looking.release()

    def _take(self, path: Path) -> None:
        try:
            written = _read(path)
            if written == self._seen and not self._trouble.is_met:
                return
            if written != self._in_force.written:
                _refuse_weaker(path, self._in_force.written.config, written.config)
                self._in_force = _made(written, self._in_force)
        except PodtallyError as error:
            self._trouble.met("the web configuration stays as it was: %s", error)
            return
        self._seen = written
        if self._trouble.is_met:
            self._trouble.over("the web configuration %s is read again", path)
        else:
            log.info("the web configuration %s is read again", path)


def _read(path: Path) -> WebFiles:
    config = read_web_config(path)
    return WebFiles(config, read_pem(config.tls) if config.tls else None)


def _made(written: WebFiles, before: WebSettings) -> WebSettings:
    config, pem = written
    context = server_context(config.tls, pem) if config.tls and pem else None
    users = before.users  # with whom they know already
    if config.users != before.written.config.users:
        users = Users(config.users) if config.users else None
    return WebSettings(written, context, users)


def _refuse_weaker(path: Path, before: WebConfig, after: WebConfig) -> None:
    """A file that is being written looks like one that protects nothing."""
    for what, had, has in zip(_LAYERS, _layers(before), _layers(after), strict=True):
        if had and not has:
            raise PodtallyError(
                f"{path}: {what} is gone", "restart the agent if that is meant, or put it back"
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
