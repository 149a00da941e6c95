# SPDX-License-Identifier: Apache-2.0
"""TLS as the web configuration has it: what it is made of, its context, and who may enter by it."""

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

SPEAKS_TLS = b"this port speaks TLS: ask by https\n"  # to who asks it without
_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_VERIFY = {IF_GIVEN: ssl.CERT_OPTIONAL, REQUIRED: ssl.CERT_REQUIRED}
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"


class Pem(NamedTuple):
    """What was in the files, or in the configuration itself."""

    certificate: bytes
    key: bytes
    client_ca: bytes

    def __repr__(self) -> str:
        return "Pem(...)"


def read_pem(tls: TlsServerConfig) -> Pem:
    """Read what is named; PodtallyError."""
    return Pem(
        read_certificate(tls),
        _read("key", tls.key, tls.key_file),
        _read("client_ca", tls.client_ca, tls.client_ca_file),
    )


def read_certificate(tls: TlsServerConfig) -> bytes:
    """Read only what is no secret; PodtallyError."""
    return _read("cert", tls.cert, tls.cert_file)


def first_certificate(pem: bytes) -> bytes:
    """Return the server's own of a chain, in DER; PodtallyError."""
    start, end = pem.find(_BEGIN), pem.find(_END)
    try:
        text = pem[start : end + len(_END)].decode("ascii") if 0 <= start < end else ""
        return ssl.PEM_cert_to_DER_cert(text)
    except ValueError:
        raise PodtallyError(
            "tls_server_config.cert: not a certificate in PEM", "check cert_file"
        ) from None


def server_context(tls: TlsServerConfig, pem: Pem) -> ssl.SSLContext:
    """Make a context, complete with certificates; PodtallyError."""
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
    """Tell whether the certificate has one of the names that may enter, if they are told."""
    if tls.client_allowed_sans is msgspec.UNSET:
        return True
    told = peer.getpeercert() or {}
    names = {_plain(each[1]) for each in told.get("subjectAltName", ()) if len(each) == 2}
    return not names.isdisjoint(map(_plain, tls.client_allowed_sans))


def _plain(name: object) -> str:
    """Addresses have several spellings."""
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
            "check the path and its rights",
        ) from None


def _load_own(context: ssl.SSLContext, tls: TlsServerConfig, pem: Pem) -> None:
    first_certificate(pem.certificate)
    where = tls.key_file or "the key"
    if b"PRIVATE KEY-----" not in pem.key:
        raise PodtallyError(f"tls_server_config.key: {where}: no private key in PEM", "check it")

    def no_password() -> str:  # else OpenSSL would ask for it on the terminal
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
                f"cannot be used: {_words(error)}",
                "is the key the certificate's own? renew both together",
            ) from None


def _load_authority(context: ssl.SSLContext, tls: TlsServerConfig, pem: bytes) -> None:
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        where = tls.client_ca_file or "client_ca"
        raise PodtallyError(
            f"tls_server_config.client_ca: {where}: no certificates in PEM: {_words(error)}",
            "check it",
        ) from None
    # As Go takes them: whatever is named is trusted, also an intermediate one.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN


def _choose_curve(context: ssl.SSLContext, name: str) -> None:
    try:
        context.set_ecdh_curve(CURVES[name])
    except (ValueError, ssl.SSLError) as error:
        raise PodtallyError(
            f"tls_server_config.curve_preferences: {name}: {_words(error)}", "choose another"
        ) from None


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """OpenSSL takes own certificates from files only; this one is in no folder, so that what was
    read and compared is what is used, and a key that stands in the configuration stays in memory.
    """
    descriptor = os.memfd_create("podtally-pem", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _words(error: Exception) -> str:
    return (isinstance(error, ssl.SSLError) and error.reason) or str(error)
