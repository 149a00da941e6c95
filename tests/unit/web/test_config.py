# SPDX-License-Identifier: Apache-2.0
"""The web configuration: what it may say, and what is said of what it may not."""

import os
import ssl
from pathlib import Path

import msgspec
import pytest

from podtally.errors import PodtallyError
from podtally.web import client, connection_limit
from podtally.web.config import (
    CIPHERS,
    CURVES,
    HEADERS,
    IF_GIVEN,
    MAX_HASH_COST,
    NO_CERTIFICATE,
    REQUIRED,
    VERSIONS,
    HttpServerConfig,
    TlsServerConfig,
    WebConfig,
    read_web_config,
)
from podtally.web.reload import WebConfigWatch
from tests.apiserver.certificates import Authority, Pair
from tests.unit.web_support import hashed, secure, written

PAIR = "tls_server_config: {cert_file: a.pem, key_file: a.key"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("server", "IP:127.0.0.1")


def test_everything_that_is_supported(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    text = f"""
tls_server_config:
  cert_file: a.pem
  key_file: /keys/a.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ../ca.pem
  client_allowed_sans: [prometheus.example]
  min_version: TLS12
  max_version: TLS13
  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
  prefer_server_cipher_suites: false
  curve_preferences: [X25519]
http_server_config:
  http2: false
  headers: {{X-Frame-Options: deny, Strict-Transport-Security: max-age=60}}
basic_auth_users: {{prometheus: {hashed("x").replace("$2b$", "$2y$")}}}
"""
    result = read_web_config(written(tmp_path / "etc", text))
    assert result.tls is not None
    assert result.tls.cert_file == str(tmp_path / "etc/a.pem")
    assert result.tls.key_file == "/keys/a.key"
    assert Path(result.tls.client_ca_file).resolve() == tmp_path / "ca.pem"
    assert result.users.keys() == {"prometheus"}
    assert "key" not in repr(result)


BCRYPT = hashed("x")


@pytest.mark.parametrize(
    ("text", "field", "what", "fix"),
    [
        ("", "", "no settings", "remove web_config_file"),
        ("{}", "", "no settings", "basic_auth_users"),
        ("tls_config: {}", "", 'unknown field "tls_config"', "docs/web.md"),
        ("rate_limit: {burst: 1}", "", 'unknown field "rate_limit"', "docs/web.md"),
        (PAIR + ", insecure: true}", "tls_server_config", 'unknown field "insecure"', "docs/web.md"),
        (PAIR + ", min_version: 1.2}", "tls_server_config.min_version", "must be text", "docs"),
        (PAIR + ", min_version: TLS11}", "tls_server_config.min_version", "RFC 8996", "TLS12"),
        (PAIR + ", max_version: SSL30}", "tls_server_config.max_version", "unknown TLS version", "TLS13"),
        (PAIR + ", min_version: TLS13, max_version: TLS12}", "tls_server_config.min_version", "above", "swap"),
        (PAIR + ", cipher_suites: [RC4]}", "tls_server_config.cipher_suites", "'RC4'", "TLS_ECDHE"),
        (PAIR + ", cipher_suites: [TLS_AES_128_GCM_SHA256]}", "tls_server_config.cipher_suites", "TLS 1.3", "choose"),
        (PAIR + ", min_version: TLS13, cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]}", "tls_server_config.cipher_suites", "TLS 1.2, which is disabled", "drop"),
        (PAIR + ", curve_preferences: [CurveP384, X25519]}", "tls_server_config.curve_preferences", "one curve", "keep one"),
        (PAIR + ", curve_preferences: [P256]}", "tls_server_config.curve_preferences", "'P256'", "CurveP256"),
        (PAIR + ", cert: x}", "tls_server_config.cert", "cert_file is given", "keep one"),
        ("tls_server_config: {cert_file: a.pem}", "tls_server_config", "neither key_file", "key_file"),
        ("tls_server_config: {}", "tls_server_config", "neither cert_file", "cert_file"),
        ("tls_server_config:", "tls_server_config", "must be an object", "docs"),
        (PAIR + ", client_auth_type: RequireAnyClientCert}", "tls_server_config.client_auth_type", "unverified", "RequireAndVerify"),
        (PAIR + ", client_auth_type: Require}", "tls_server_config.client_auth_type", "invalid value 'Require'", "NoClientCert"),
        (PAIR + ", client_auth_type: RequireAndVerifyClientCert}", "tls_server_config.client_auth_type", "needs the CA", "client_ca_file"),
        (PAIR + ", client_ca_file: ca.pem}", "tls_server_config", "clients need no certificate", "client_auth_type"),
        (PAIR + ", client_allowed_sans: [a]}", "tls_server_config.client_allowed_sans", "without a cert", "RequireAndVerify"),
        (PAIR + ", client_auth_type: RequireAndVerifyClientCert, client_ca: x, client_allowed_sans: []}", "tls_server_config.client_allowed_sans", "no names", "add names"),
        ("http_server_config: {http2: true}", "http_server_config.http2", "HTTP/2", "false"),
        ("http_server_config: {headers: {Server: x}}", "http_server_config.headers.Server", "cannot be set", "X-Frame"),
        ("http_server_config: {headers: {X-Frame-Options: allow}}", "http_server_config.headers.X-Frame-Options", "'allow'", "deny"),
        ('http_server_config: {headers: {X-XSS-Protection: "1\\r\\nSet-Cookie: a"}}', "http_server_config.headers.X-XSS-Protection", "invalid characters", "ASCII"),
        ("basic_auth_users:", "basic_auth_users", "must be an object", "docs"),
        ("basic_auth_users: {}", "basic_auth_users", "no users", "drop it"),
        ("basic_auth_users: {a: secret}", "basic_auth_users.a", "invalid bcrypt hash", "htpasswd"),
        ("basic_auth_users: {a: 7}", "basic_auth_users", "must be text", "docs"),
        (f"basic_auth_users: {{a.b: {BCRYPT[:-1]}}}", "basic_auth_users.a.b", "invalid bcrypt hash", "htpasswd"),
        (f"basic_auth_users: {{'a:b': {BCRYPT}}}", "basic_auth_users.a:b", "cannot have a colon", "another"),
        (f"basic_auth_users: {{a: {BCRYPT.replace('$04$', '$18$')}}}", "basic_auth_users.a", "cost 18", "cost of 10"),
        (f"basic_auth_users:\n  a: {BCRYPT}\n  a: {BCRYPT}", "", "given twice", "fix"),
        (f"basic_auth_users: {{a: {BCRYPT}}}\n---\n{{}}", "", "second document; drop it", ""),
        ("basic_auth_users: {a: [", "", "not YAML", "fix"),
        ("- a", "", "must be an object", "docs"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_an_error(
    tmp_path: Path, text: str, field: str, what: str, fix: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(PodtallyError) as refused:
        read_web_config(path)
    said = refused.value.what
    assert said.startswith(str(path))
    assert f": {field}: " in said or not field
    assert what in said
    assert fix in refused.value.fix
    assert "secret" not in str(refused.value)


def test_errors_have_their_line(tmp_path: Path) -> None:
    path = written(tmp_path, f"basic_auth_users:\n  a: {BCRYPT}\n  b: wrong\n")
    with pytest.raises(PodtallyError, match=rf"^{path}:3: basic_auth_users.b: "):
        read_web_config(path)


def test_files_that_cannot_be_read(tmp_path: Path, pair: Pair, authority: Authority) -> None:
    other = authority.issue("other")
    encrypted = pair.key.with_suffix(".enc")
    Authority._openssl(
        "pkey", "-in", str(pair.key), "-out", str(encrypted), "-aes128", "-passout", "pass:x"
    )
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    huge = tmp_path / "huge"
    huge.write_bytes(b"x" * ((1 << 20) + 1))
    ca = f"client_auth_type: RequireAndVerifyClientCert, client_ca_file: {pair.key}"
    for certificate, key, more, result in (
        (tmp_path / "none", pair.key, "", "No such file"),
        (fifo, pair.key, "", "not a regular file"),
        (huge, pair.key, "", "more than 1 MiB"),
        (pair.key, pair.key, "", "not a certificate"),
        (pair.certificate, pair.certificate, "", "not a private key"),
        (pair.certificate, encrypted, "", "is encrypted"),
        (pair.certificate, other.key, "", "KEY_VALUES_MISMATCH"),
        (pair.certificate, pair.key, ca, "no certificates in PEM"),
    ):
        text = f"tls_server_config: {{cert_file: {certificate}, key_file: {key}, {more}}}"
        with pytest.raises(PodtallyError, match=result):
            WebConfigWatch(written(tmp_path, text))
    with pytest.raises(PodtallyError, match="cannot read the web configuration"):
        WebConfigWatch(tmp_path / "nothing.yml")
    assert read_web_config(written(tmp_path, secure(pair))) != WebConfig()


def test_certificates_may_stand_in_the_file(tmp_path: Path, pair: Pair) -> None:
    lines = ["tls_server_config:"]
    for field, path in (("cert", pair.certificate), ("key", pair.key)):
        lines += [f"  {field}: |", *(f"    {line}" for line in path.read_text().splitlines())]
    assert WebConfigWatch(written(tmp_path, "\n".join(lines))).current().context is not None


def test_versions_suites_and_curves_reach_openssl(tmp_path: Path, pair: Pair) -> None:
    more = f", max_version: TLS12, cipher_suites: [{', '.join(CIPHERS)}], curve_preferences: [CurveP384]"
    context = WebConfigWatch(written(tmp_path, secure(pair, more))).current().context
    assert context is not None
    assert context.maximum_version == ssl.TLSVersion.TLSv1_2
    names = [each["name"] for each in context.get_ciphers() if each["protocol"] != "TLSv1.3"]
    assert set(names) == set(CIPHERS.values())
    assert context.options & ssl.OP_CIPHER_SERVER_PREFERENCE


def test_the_page_documents_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs/web.md").read_text()
    structs = (WebConfig, TlsServerConfig, HttpServerConfig)
    names = {field.name for struct in structs for field in msgspec.structs.fields(struct)}
    variables = {value for name, value in vars(client).items() if name.endswith("_VARIABLE")}
    assert len(variables) == 4
    result = {*names, *variables, *HEADERS, *CURVES, *VERSIONS, NO_CERTIFICATE, IF_GIVEN, REQUIRED}
    assert {each for each in result if f"`{each}`" not in page} == set()
    assert f"up to {MAX_HASH_COST}" in page
    assert f"At most {connection_limit.MAX_CONNECTIONS} connections" in page
