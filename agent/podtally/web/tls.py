# SPDX-License-Identifier: Apache-2.0
"""TLS of the web configuration: its certificates, its context, and client certificates."""

import ipaddress
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from podtally.errors import PodtallyError
from podtally.web.config import CIPHERS, CURVES, IF_GIVEN, REQUIRED, TlsServerConfig, read_file

TLS_REQUIRED = b"this port requires TLS: use https\n"
_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_VERIFY = {IF_GIVEN: ssl.CERT_OPTIONAL, REQUIRED: ssl.CERT_REQUIRED}
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"


class Pem(NamedTuple):
    """Certificates and key, from files or inline."""

    certificate: bytes
    key: bytes
    client_ca: bytes

    def __repr__(self) -> str:
        return "Pem(...)"


def read_pem(tls: TlsServerConfig) -> Pem:
    """Read the certificates and the key; PodtallyError."""
    return Pem(
        read_certificate(tls),
        _read("key", tls.key, tls.key_file),
        _read("client_ca", tls.client_ca, tls.client_ca_file),
    )


def read_certificate(tls: TlsServerConfig) -> bytes:
    """Read the certificate only; PodtallyError."""
    return _read("cert", tls.cert, tls.cert_file)


def first_certificate(pem: bytes) -> bytes:
    """Return the server's own certificate of a chain, in DER; PodtallyError."""
    start, end = pem.find(_BEGIN), pem.find(_END)
    try:
        text = pem[start : end + len(_END)].decode("ascii") if 0 <= start < end else ""
        return ssl.PEM_cert_to_DER_cert(text)
    except ValueError:
        raise PodtallyError(
            "tls_server_config.cert: not a certificate in PEM", "check cert_file"
        ) from None


def server_context(tls: TlsServerConfig, pem: Pem) -> ssl.SSLContext:
    """Return a context with the certificates; PodtallyError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.maximum_version = _VERSIONS[tls.max_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    if not tls.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if tls.cipher_suites:
        context.set_ciphers(":".join(CIPHERS[name] for name in tls.cipher_suites))
    for name in tls.curve_preferences:
        _choose_curve(context, name)
    context.set_alpn_protocols(["http/1.1"])
    _load_own(context, tls, pem)
    if tls.client_auth_type in _VERIFY:
        _load_authority(context, tls, pem.client_ca)
        context.verify_mode = _VERIFY[tls.client_auth_type]
    return context


def is_allowed(tls: TlsServerConfig, peer: ssl.SSLSocket) -> bool:
    """Return whether the certificate has one of the allowed names, if there are any."""
    if tls.client_allowed_sans is msgspec.UNSET:
        return True
    certificate = peer.getpeercert() or {}
    names = {_plain(each[1]) for each in certificate.get("subjectAltName", ()) if len(each) == 2}
    return not names.isdisjoint(map(_plain, tls.client_allowed_sans))


def _plain(name: object) -> str:
    """Return an address in its canonical form."""
    try:
        return str(ipaddress.ip_address(str(name).strip()))
    except ValueError:
        return str(name)


def _read(field: str, inline: str, file: str) -> bytes:
    if not file:
        return inline.encode()
    try:
        return read_file(Path(file))
    except OSError as error:
        raise PodtallyError(
            f"tls_server_config.{field}_file: cannot read {file}: {error.strerror}",
            "check the path and its permissions",
        ) from None


def _load_own(context: ssl.SSLContext, tls: TlsServerConfig, pem: Pem) -> None:
    first_certificate(pem.certificate)
    where = tls.key_file or "the key"
    if b"PRIVATE KEY-----" not in pem.key:
        raise PodtallyError(
            f"tls_server_config.key: {where}: not a private key in PEM", "check the file"
        )

    def no_password() -> str:  # otherwise OpenSSL would prompt on the terminal
        raise PodtallyError(
            f"tls_server_config.key: {where} is encrypted",
            "decrypt it: openssl pkey -in FILE -out FILE",
        )

    with _as_file(pem.certificate) as certificate, _as_file(pem.key) as key:
        try:
            context.load_cert_chain(certificate, key, no_password)
        except ssl.SSLError as error:
            raise PodtallyError(
                f"tls_server_config: {tls.cert_file or 'cert'} and {tls.key_file or 'key'} "
                f"cannot be used: {_reason(error)}",
                "do key and certificate match? renew both together",
            ) from None


def _load_authority(context: ssl.SSLContext, tls: TlsServerConfig, pem: bytes) -> None:
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        where = tls.client_ca_file or "client_ca"
        raise PodtallyError(
            f"tls_server_config.client_ca: {where}: no certificates in PEM: {_reason(error)}",
            "check the file",
        ) from None
    # As in Go: every certificate given is trusted, also an intermediate one.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN


def _choose_curve(context: ssl.SSLContext, name: str) -> None:
    try:
        context.set_ecdh_curve(CURVES[name])
    except (ValueError, ssl.SSLError) as error:
        raise PodtallyError(
            f"tls_server_config.curve_preferences: {name}: {_reason(error)}", "choose another curve"
        ) from None


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Yield the path of an anonymous file: OpenSSL reads its own certificate from files only.

    So it uses exactly what was read and compared, and an inline key stays in memory.
    """
    descriptor = os.memfd_create("podtally-pem", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return (isinstance(error, ssl.SSLError) and error.reason) or str(error)
