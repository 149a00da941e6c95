# SPDX-License-Identifier: Apache-2.0
"""TLS and passwords on a real server, with clients of all kinds of will."""

import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.apiserver.certificates import Authority, Pair
from tests.e2e.conftest import free_port
from tests.e2e.web_fixtures import Written, authority, pair, written
from tests.e2e.web_support import (
    CLIENT_HELLO,
    NAMES,
    PASSWORD,
    Client,
    ask,
    idlers,
    served,
    tls,
    users,
)
from tests.pressure import Stopwatch

__all__ = ["authority", "pair", "written"]

SOON_SECONDS = 2.0  # a client that is waited for takes ten


LogCapture = pytest.LogCaptureFixture


@pytest.fixture
def protected(written: Written, authority: Authority, pair: Pair) -> Iterator[Client]:
    """A client of a server with TLS and one user."""
    headers = "http_server_config: {headers: {X-Content-Type-Options: nosniff}}\n"
    with served(written(tls(pair) + users() + headers)) as port:
        yield Client(port, authority)


def test_paths_and_credentials(protected: Client) -> None:
    for path in ("/metrics", "/"):
        assert protected.get(path).status == 200
        for password in ("wrong", "", None):
            refused = protected.get(path, password)
            assert (refused.status, refused.body) == (401, "unauthorized\n")
            assert refused.headers["WWW-Authenticate"].startswith("Basic realm=")
            assert refused.headers["X-Content-Type-Options"] == "nosniff"
    assert protected.get("/elsewhere", None).status == 401  # paths are not revealed
    assert protected.get("/elsewhere").status == 404
    for path in ("/livez", "/readyz"):
        result = protected.get(path, None)
        assert (result.status, result.body) == (200, "ok\n")
        assert result.headers["X-Content-Type-Options"] == "nosniff"
    assert "podtally_pod_packets_total" in protected.get("/metrics").body


def test_each_request_needs_the_password(protected: Client) -> None:
    connection = protected.connection()
    statuses = [ask(connection, "/metrics", each).status for each in (PASSWORD, None, PASSWORD)]
    connection.close()
    assert statuses == [200, 401, 200]


def test_an_answer_does_not_wait_for_the_clients_ack(protected: Client) -> None:
    """A delayed ACK comes after 40 ms (TCP_DELACK_MIN)."""
    took = []
    for _ in range(10):
        watch = Stopwatch()
        protected.get("/livez")
        took.append(watch.unhindered())
    assert min(took) < 0.03


def test_plain_http_to_a_tls_port_is_explained(protected: Client) -> None:
    result = Client(protected.port).get("/metrics")
    assert (result.status, result.body) == (400, "this port requires TLS: use https\n")
    assert protected.get("/metrics").status == 200


def test_only_the_configured_tls_versions(
    written: Written, authority: Authority, pair: Pair
) -> None:
    with served(written(tls(pair, min_version="TLS13"))) as port:
        client = Client(port, authority)
        assert client.context is not None
        assert client.get("/metrics", None).status == 200
        client.context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
            client.get("/metrics", None)


def test_the_server_sends_close_notify(protected: Client) -> None:
    """Otherwise a client could not distinguish it from one that was cut off."""
    assert protected.context is not None
    protected.context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # Python sets it
    with (
        socket.create_connection(("127.0.0.1", protected.port), timeout=60) as plain,
        protected.context.wrap_socket(
            plain, server_hostname="localhost", suppress_ragged_eofs=False
        ) as secured,
    ):
        secured.sendall(b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n")
        result = b"".join(iter(lambda: secured.recv(4096), b""))
    assert result.endswith(b"ok\n")


def test_client_certificates(
    written: Written, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    strangers = Authority(tmp_path / "strangers", "strangers-ca")
    config = tls(
        pair,
        client_auth_type="RequireAndVerifyClientCert",
        client_ca_file=str(authority.own.certificate),
        client_allowed_sans="[prometheus.example, '2001:db8::7']",
    )
    named = authority.issue("named", "DNS:other.example,DNS:prometheus.example")
    addressed = authority.issue("addressed", "IP:2001:0DB8:0:0::7")
    with served(written(config)) as port:
        for own in (named, addressed):
            assert Client(port, authority, own).get("/metrics", None).status == 200
        refused = (
            None,
            authority.issue("nobody"),
            authority.issue("other", "DNS:sub.prometheus.example"),
            strangers.issue("stranger", "DNS:prometheus.example"),
        )
        for each in refused:
            with pytest.raises(OSError):  # noqa: PT011 - TLS alert, reset or end: by timing
                Client(port, authority, each).get("/metrics", None)
        assert Client(port, authority, named).get("/metrics", None).status == 200


def test_a_certificate_if_there_is_one(
    written: Written, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    config = tls(
        pair,
        client_auth_type="VerifyClientCertIfGiven",
        client_ca_file=str(authority.own.certificate),
    )
    stranger = Authority(tmp_path / "strangers", "strangers-ca").issue("stranger")
    with served(written(config)) as port:
        assert Client(port, authority).get("/metrics", None).status == 200
        assert Client(port, authority, pair).get("/metrics", None).status == 200
        with pytest.raises(OSError):  # noqa: PT011
            Client(port, authority, stranger).get("/metrics", None)


@pytest.mark.parametrize("words", [b"", CLIENT_HELLO, b"GET /metrics HTTP/1.1\r\nHos"])
@pytest.mark.parametrize("secured", [True, False])
def test_two_hundred_idle_clients_block_no_one(
    written: Written, authority: Authority, pair: Pair, words: bytes, secured: bool
) -> None:
    config = written(tls(pair) + users() if secured else users())
    with served(config) as port, idlers(port, 200, words):
        client = Client(port, authority if secured else None)
        for _ in range(3):
            watch = Stopwatch()
            assert client.get("/metrics").status == 200
            assert watch.unhindered() < SOON_SECONDS
        names = [thread.name for thread in threading.enumerate()]
        assert sum("process_request_thread" in name for name in names) <= 110


# SSLContext.wrap_socket() leaves a socket that was reset before to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@pytest.mark.parametrize("secured", [True, False])
def test_abrupt_disconnects_are_not_logged(
    written: Written, authority: Authority, pair: Pair, secured: bool, caplog: LogCapture
) -> None:
    reset = struct.pack("ii", 1, 0)  # SO_LINGER for no time: RST instead of FIN
    with served(written(tls(pair) + users() if secured else users())) as port:
        for words in (b"", CLIENT_HELLO, b"GET /livez HTTP/1.1\r\n\r\n") * 30:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as rude:
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                rude.sendall(words)
        assert Client(port, authority if secured else None).get("/metrics").status == 200
    assert caplog.text == ""


def test_a_slow_client_after_the_handshake_blocks_no_one(protected: Client) -> None:
    assert protected.context is not None
    dripping: list[ssl.SSLSocket] = []
    try:
        for _ in range(120):
            plain = socket.create_connection(("127.0.0.1", protected.port), timeout=60)
            dripping.append(protected.context.wrap_socket(plain, server_hostname="127.0.0.1"))
            dripping[-1].sendall(b"G")
        watch = Stopwatch()
        assert protected.get("/metrics").status == 200
        assert watch.unhindered() < SOON_SECONDS
        assert dripping[0].recv(1) == b""  # hung up on, to make room
    finally:
        for each in dripping:
            each.close()


def test_a_flood_of_guesses_keeps_no_scraper_out(
    written: Written, authority: Authority, pair: Pair
) -> None:
    with served(written(tls(pair) + users(cost=11))) as port:
        client = Client(port, authority)
        assert client.get("/metrics").status == 200
        statuses: list[int] = []
        over = threading.Event()

        def guess(number: int) -> None:
            mine = Client(port, authority)
            for i in range(20):
                if over.is_set():
                    return
                statuses.append(mine.get("/metrics", f"guess {number} {i}").status)

        threads = [threading.Thread(target=guess, args=(i,)) for i in range(12)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                watch = Stopwatch()
                assert client.get("/metrics").status == 200
                assert watch.unhindered() < SOON_SECONDS
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert set(statuses) <= {401, 429}


def test_a_renewed_certificate_is_shown_to_the_next(
    written: Written, authority: Authority, tmp_path: Path
) -> None:
    place = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    shown = []
    with served(written(tls(_copied(authority.issue("first", NAMES), place)))) as port:
        client = Client(port, authority)
        before = client.connection()
        assert ask(before, "/metrics", None).status == 200
        shown.append(client.shown())
        second = authority.issue("second", NAMES)
        _copied(second, place)
        assert ask(before, "/metrics", None).status == 200  # who is connected stays so
        before.close()
        wanted = ssl.PEM_cert_to_DER_cert(second.certificate.read_text())
        end = time.monotonic() + 5
        while client.shown() != wanted:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_server_that_closes_frees_its_port_and_hangs_up(
    written: Written, authority: Authority, pair: Pair
) -> None:
    config = written(tls(pair) + users())
    port = free_port()
    for _ in range(3):  # as a reload does
        with ExitStack() as idle, served(config, port):
            idle.enter_context(idlers(port, 3))
            client = Client(port, authority)
            kept = client.connection()
            assert ask(kept, "/metrics", PASSWORD).status == 200
            closing = Stopwatch()
        assert closing.unhindered() < 1.5  # idle clients are not waited for
        with pytest.raises(OSError):  # noqa: PT011 - it depends on who is quicker
            socket.create_connection(("127.0.0.1", port), timeout=1)
        assert kept.sock.recv(1) == b""
        kept.close()
    names = [thread.name for thread in threading.enumerate()]
    assert "http" not in names


def test_promtool_takes_the_same_files(written: Written, authority: Authority, pair: Pair) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here (Debian package prometheus)")
    more = {
        "client_auth_type": "RequireAndVerifyClientCert",
        "client_ca_file": str(authority.own.certificate),
        "min_version": "TLS12",
        "cipher_suites": "[TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]",
        "curve_preferences": "[CurveP256]",
    }
    headers = "http_server_config: {http2: false, headers: {X-Frame-Options: deny}}\n"
    config = written(tls(pair, **more) + users() + headers)
    with served(config):
        pass
    done = subprocess.run(
        [promtool, "check", "web-config", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _copied(pair: Pair, to: Pair) -> Pair:
    to.certificate.write_bytes(pair.certificate.read_bytes())
    to.key.write_bytes(pair.key.read_bytes())
    return to
