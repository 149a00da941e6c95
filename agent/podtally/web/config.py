# SPDX-License-Identifier: Apache-2.0
"""Reads the web configuration file, in the format of Prometheus' exporters (exporter-toolkit,
docs/web-configuration.md). Unsupported fields are errors, never ignored: they might protect
the server.
"""

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from podtally.errors import PodtallyError
from podtally.yamltree.shapes import explain_mismatch, shape_error
from podtally.yamltree.tree import TreeError, TreeNode, yaml_document

MAX_BYTES = 1 << 20  # of a file; a bundle of all public CAs has a quarter of it
MAX_HASH_COST = 14  # of a bcrypt hash, which any client can make the agent compute: a second
VERSIONS = ("TLS12", "TLS13")
OLD_VERSIONS = ("TLS10", "TLS11")
CIPHERS = {  # Go's names of TLS 1.2's suites with forward secrecy, and OpenSSL's
    f"TLS_ECDHE_{key}_WITH_{go}": f"ECDHE-{key}-{openssl}"
    for key in ("ECDSA", "RSA")
    for go, openssl in (
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
        ("CHACHA20_POLY1305", "CHACHA20-POLY1305"),
        ("AES_128_CBC_SHA", "AES128-SHA"),
        ("AES_256_CBC_SHA", "AES256-SHA"),
    )
}
CURVES = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
NO_CERTIFICATE, IF_GIVEN, REQUIRED = (
    *("NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"),
)
_UNVERIFIED = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
HEADERS: dict[str, tuple[str, ...]] = {  # allowed headers and values; (): any value
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
_SEE = "see docs/web.md for the fields that are supported"
_TLS = "tls_server_config"
_HTTP = "http_server_config"
_USERS = "basic_auth_users"
_HASH = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")


class TlsServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``tls_server_config``; paths are made absolute, or relative to the working directory."""

    cert: str = ""
    cert_file: str = ""
    key: str = ""
    key_file: str = ""
    client_ca: str = ""
    client_ca_file: str = ""
    client_auth_type: str = NO_CERTIFICATE
    client_allowed_sans: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "TlsServer(...)"  # a key may be in it


class HttpServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``http_server_config``; HTTP/2 is not supported."""

    http2: bool = False
    headers: dict[str, str] = {}


class WebConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file, checked; an empty section is an error."""

    tls_server_config: TlsServerConfig | msgspec.UnsetType = msgspec.UNSET
    http_server_config: HttpServerConfig = HttpServerConfig()
    basic_auth_users: dict[str, str] | msgspec.UnsetType = msgspec.UNSET

    @property
    def tls(self) -> TlsServerConfig | None:
        return self.tls_server_config or None

    @property
    def users(self) -> dict[str, str]:
        """Bcrypt hashes of the passwords, by name."""
        return self.basic_auth_users or {}

    def __repr__(self) -> str:
        return "WebConfig(...)"


class _FieldPlace(NamedTuple):
    """Finds the line of a field, for errors."""

    path: Path
    root: TreeNode

    def wrong(self, steps: tuple[str, ...], what: str, fix: str) -> NoReturn:
        where = f"{self.path}:{self.root.line_at(steps)}"
        raise PodtallyError(f"{where}: {'.'.join(steps)}: {what}", fix)


def read_web_config(path: Path) -> WebConfig:
    """Read and check the file; PodtallyError. The files that it names are not read yet."""
    root = _tree(path)
    try:
        config = msgspec.convert(root.value, type=WebConfig)
    except msgspec.ValidationError as error:
        steps, _ = explain_mismatch(error)
        where = f"{path}:{root.line_at(steps)}" if steps else str(path)
        raise shape_error(error, where, _SEE) from None
    place = _FieldPlace(path, root)
    if config == WebConfig():
        raise PodtallyError(
            f"{path}: no settings",
            "add tls_server_config or basic_auth_users, or remove web_config_file",
        )
    _check_http(config.http_server_config, place)
    if config.basic_auth_users is not msgspec.UNSET:
        _check_users(config.basic_auth_users, place)
    if config.tls is None:
        return config
    _check_material(config.tls, place)
    _check_client_certificates(config.tls, place)
    _check_protocol(config.tls, place)
    return msgspec.structs.replace(config, tls_server_config=_beside(config.tls, path))


def read_file(path: Path) -> bytes:
    """Return the content of a regular file; OSError if it is too large. Never waits for a FIFO."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "not a regular file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(0, f"more than {MAX_BYTES >> 20} MiB")
    return content


def _tree(path: Path) -> TreeNode:
    try:
        root = yaml_document(read_file(path).decode())
    except OSError as error:
        raise PodtallyError(
            f"cannot read the web configuration {path}: {error.strerror}", "check web_config_file"
        ) from None
    except UnicodeDecodeError:
        raise PodtallyError(f"{path}: not UTF-8", "check web_config_file") from None
    except TreeError as error:
        raise PodtallyError(f"{path}:{error.line}: {error.message}", "fix that line") from None
    return TreeNode({}, 1) if root is None or root.value is None else root


def _beside(tls: TlsServerConfig, path: Path) -> TlsServerConfig:
    """Return the paths relative to the configuration file's directory."""
    names = ("cert_file", "key_file", "client_ca_file")
    files = {name: getattr(tls, name) for name in names}
    there = {name: str(path.parent / file) for name, file in files.items() if file}
    return msgspec.structs.replace(tls, **there)


def _check_http(http: HttpServerConfig, place: _FieldPlace) -> None:
    if http.http2:
        place.wrong((_HTTP, "http2"), "HTTP/2 is not supported", "set it to false, or drop it")
    for name, value in http.headers.items():
        steps = (_HTTP, "headers", name)
        allowed = HEADERS.get(name)
        if allowed is None:
            place.wrong(steps, "this header cannot be set", f"choose from {', '.join(HEADERS)}")
        if value and allowed and value not in allowed:
            place.wrong(steps, f"invalid value {value!r}", f"use {' or '.join(allowed)}")
        if not (value.isascii() and (value.isprintable() or not value)):
            place.wrong(steps, "invalid characters in a header", "use printable ASCII in one line")


def _check_users(users: dict[str, str], place: _FieldPlace) -> None:
    if not users:
        place.wrong((_USERS,), "no users: no client could connect", "add users, or drop it")
    for name, hashed in users.items():
        steps = (_USERS, name)
        found = _HASH.fullmatch(hashed)
        if ":" in name:  # RFC 7617, 2
            place.wrong(steps, "a user name cannot have a colon", "choose another name")
        if found is None:
            place.wrong(steps, "invalid bcrypt hash", "create one: htpasswd -nBC 10 USER")
        if not 4 <= int(found[1]) <= MAX_HASH_COST:
            place.wrong(
                steps,
                f"bcrypt cost {found[1]} is too slow: any client can make the agent compute it",
                f"use a cost of 10 to {MAX_HASH_COST}: htpasswd -nBC 10 USER",
            )


def _check_material(tls: TlsServerConfig, place: _FieldPlace) -> None:
    for name in ("cert", "key", "client_ca"):
        inline, file = getattr(tls, name), getattr(tls, f"{name}_file")
        if inline and file:
            place.wrong((_TLS, name), f"{name}_file is given as well", "keep one of them")
        if name != "client_ca" and not (inline or file):
            place.wrong((_TLS,), f"neither {name}_file nor {name} is given", f"give {name}_file")


def _check_client_certificates(tls: TlsServerConfig, place: _FieldPlace) -> None:
    auth_type, named = tls.client_auth_type, bool(tls.client_ca or tls.client_ca_file)
    steps = (_TLS, "client_auth_type")
    if auth_type in _UNVERIFIED:
        place.wrong(steps, f"{auth_type} accepts unverified certificates", f"use {REQUIRED}")
    if auth_type not in (NO_CERTIFICATE, IF_GIVEN, REQUIRED):
        fix = f"choose from {NO_CERTIFICATE}, {IF_GIVEN}, {REQUIRED}"
        place.wrong(steps, f"invalid value {auth_type!r}", fix)
    if auth_type == NO_CERTIFICATE and named:
        place.wrong(
            (_TLS,),
            "a client CA is given, but clients need no certificate",
            f"client_auth_type: {REQUIRED}",
        )
    if auth_type != NO_CERTIFICATE and not named:
        place.wrong(steps, f"{auth_type} needs the CA of the clients", "give client_ca_file")
    if tls.client_allowed_sans is msgspec.UNSET:
        return
    if auth_type != REQUIRED:
        fix = f"client_auth_type: {REQUIRED}"
        place.wrong((_TLS, "client_allowed_sans"), "clients may connect without a certificate", fix)
    if not tls.client_allowed_sans:
        fix = "add names, or drop it"
        place.wrong((_TLS, "client_allowed_sans"), "no names: no client could connect", fix)


def _check_protocol(tls: TlsServerConfig, place: _FieldPlace) -> None:
    for name in ("min_version", "max_version"):
        version = getattr(tls, name)
        fix = f"choose from {', '.join(VERSIONS)}"
        if version in OLD_VERSIONS:
            place.wrong((_TLS, name), f"{version} is insecure and not supported (RFC 8996)", fix)
        if version not in VERSIONS:
            place.wrong((_TLS, name), f"unknown TLS version {version!r}", fix)
    if tls.min_version > tls.max_version:
        place.wrong((_TLS, "min_version"), "is above max_version", "swap them")
    for name in tls.cipher_suites:
        if name not in CIPHERS:
            what = f"{name!r} cannot be selected: it is unknown, insecure, or of TLS 1.3"
            place.wrong((_TLS, "cipher_suites"), what, f"choose from {', '.join(CIPHERS)}")
    if tls.cipher_suites and tls.min_version == "TLS13":
        what = "these suites are for TLS 1.2, which is disabled"
        place.wrong((_TLS, "cipher_suites"), what, "drop it, or set min_version to TLS12")
    for name in tls.curve_preferences:
        if name not in CURVES:
            fix = f"choose from {', '.join(CURVES)}"
            place.wrong((_TLS, "curve_preferences"), f"unknown curve {name!r}", fix)
    if len(tls.curve_preferences) > 1:
        what = "only one curve is supported (Python's ssl)"
        place.wrong((_TLS, "curve_preferences"), what, "keep one, or drop it")
