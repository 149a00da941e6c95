# SPDX-License-Identifier: Apache-2.0
"""The web configuration's files change: what is taken, and what is not."""

import logging
import ssl
import time
from http import HTTPStatus
from pathlib import Path

import pytest

from podtally.web import reload
from podtally.web.reload import WebConfigWatch
from tests.apiserver.certificates import Authority, Pair
from tests.unit.web_support import hashed, header, secure, written

BCRYPT = hashed("x")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("server", "IP:127.0.0.1")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "CHECK_INTERVAL_SECONDS", 0.0)


@pytest.mark.usefixtures("impatient")
def test_changes_are_loaded_and_an_invalid_version_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, two = (f"basic_auth_users: {{{name}: {BCRYPT}}}\n" for name in ("one", "two"))
    path = written(tmp_path, one)
    watched = WebConfigWatch(path)
    assert watched.current().authenticate(header("one", "x")) == HTTPStatus.OK
    assert watched.current().authenticate(header("two", "x")) == HTTPStatus.UNAUTHORIZED
    path.write_text(two)
    assert watched.current().authenticate(header("two", "x")) == HTTPStatus.OK
    assert watched.current().authenticate(header("one", "x")) == HTTPStatus.UNAUTHORIZED
    assert [record.levelname for record in caplog.records] == ["INFO"]
    caplog.clear()
    path.write_text("basic_auth_users: {three: short}\n")
    for _ in range(3):
        assert watched.current().authenticate(header("two", "x")) == HTTPStatus.OK
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert "stays in force: " in record.message
    assert "basic_auth_users.three" in record.message
    caplog.clear()
    path.unlink()
    watched.current()
    watched.current()
    assert "cannot read the web configuration" in caplog.text
    assert len(caplog.records) == 1
    path.write_text(two)
    watched.current()
    assert f"reloaded the web configuration {path}" in caplog.records[-1].message
    watched.current()
    assert len(caplog.records) == 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "cut", ["", "http_server_config: {http2: false, headers: {X-XSS-Protection: x}}\n"]
)
def test_a_file_that_is_half_written_opens_no_door(
    tmp_path: Path, cut: str, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    users = f"basic_auth_users: {{a: {BCRYPT}}}\n"
    path = written(tmp_path, secure(pair) + users)
    watched = WebConfigWatch(path)
    for text in (cut, secure(pair) + cut, users + cut):
        path.write_text(text)
        assert watched.current().authenticate("") == HTTPStatus.UNAUTHORIZED
        assert watched.current().context is not None
    assert caplog.text.count("stays in force") == len({cut, secure(pair) + cut, users + cut})


@pytest.mark.usefixtures("impatient")
def test_client_certificates_are_not_dropped_by_an_edit(
    tmp_path: Path, pair: Pair, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    ca = f", client_ca_file: {authority.own.certificate}, client_auth_type: "
    path = written(tmp_path, secure(pair, f"{ca}RequireAndVerifyClientCert"))
    watched = WebConfigWatch(path)
    for weaker in (f"{ca}VerifyClientCertIfGiven", ""):
        path.write_text(secure(pair, weaker))
        context = watched.current().context
        assert context is not None
        assert context.verify_mode == ssl.CERT_REQUIRED
    assert caplog.text.count("was removed") == 2


@pytest.mark.usefixtures("impatient")
def test_the_names_that_clients_must_have_are_not_dropped_by_an_edit(
    tmp_path: Path, pair: Pair, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    required = f", client_ca_file: {authority.own.certificate}"
    required += ", client_auth_type: RequireAndVerifyClientCert"
    path = written(tmp_path, secure(pair, f"{required}, client_allowed_sans: [a.example]"))
    watched = WebConfigWatch(path)
    path.write_text(secure(pair, required))
    assert allowed_names(watched) == ("a.example",)
    assert "client_allowed_sans was removed" in caplog.text
    path.write_text(secure(pair, f"{required}, client_allowed_sans: [b.example]"))
    assert allowed_names(watched) == ("b.example",)


def allowed_names(watched: WebConfigWatch) -> object:
    tls = watched.current().tls
    assert tls is not None
    return tls.client_allowed_sans


@pytest.mark.usefixtures("impatient")
def test_a_renewed_certificate_keeps_verified_users(
    tmp_path: Path, authority: Authority, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "c.key"
    certificate.write_bytes(pair.certificate.read_bytes())
    key.write_bytes(pair.key.read_bytes())
    text = f"basic_auth_users: {{a: {BCRYPT}}}\n" + secure(Pair(certificate, key))
    watched = WebConfigWatch(written(tmp_path, text))
    first = watched.current()
    renewed = authority.issue("renewed", "IP:127.0.0.1")
    certificate.write_bytes(renewed.certificate.read_bytes())  # and the key a moment later
    assert watched.current() is first
    assert "KEY_VALUES_MISMATCH" in caplog.text
    key.write_bytes(renewed.key.read_bytes())
    second = watched.current()
    assert second.context is not first.context
    assert second.users is first.users


def test_files_are_checked_at_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, f"basic_auth_users: {{a: {BCRYPT}}}\n")
    monkeypatch.setattr(reload, "CHECK_INTERVAL_SECONDS", 3600.0)
    seldom = WebConfigWatch(path)
    monkeypatch.setattr(reload, "CHECK_INTERVAL_SECONDS", 0.05)
    watched = WebConfigWatch(path)
    path.write_text(f"basic_auth_users: {{b: {BCRYPT}}}\n")
    assert seldom.current().authenticate(header("b", "x")) == HTTPStatus.UNAUTHORIZED
    end = time.monotonic() + 60
    while watched.current().authenticate(header("b", "x")) != HTTPStatus.OK:
        assert time.monotonic() < end
        time.sleep(0.05)
