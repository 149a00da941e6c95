# SPDX-License-Identifier: Apache-2.0
"""Basic authentication: who is let in, and the cost of the check."""

import base64
import threading
import time
from http import HTTPStatus

import pytest

from podtally.errors import PodtallyError
from podtally.web.auth import Credentials, Users, credentials
from tests.unit.web_support import hashed, header

DEAR = 10  # a hash's cost that can be felt


@pytest.mark.parametrize(
    ("result", "meant"),
    [
        (header("a", "b:c"), Credentials(b"a", b"b:c")),
        (header("", ""), Credentials(b"", b"")),
        ("bAsIc  " + header("ä", "ö").split()[1] + " ", Credentials("ä".encode(), "ö".encode())),
        ("", None),
        ("Basic", None),
        ("Basic !!!", None),
        ("Basic ÄÖÜ=", None),
        ("Basic " + base64.b64encode(b"nocolon").decode(), None),
        ("Bearer " + header("a", "b").split()[1], None),
    ],
)
def test_credentials_of_a_header(result: str, meant: Credentials | None) -> None:
    assert credentials(result) == meant


def test_only_the_right_password_enters() -> None:
    users = Users({"a": hashed("x" * 72), "b": hashed("")})
    for name, password, status in (
        ("a", "x" * 72, HTTPStatus.OK),
        ("a", "x" * 100, HTTPStatus.OK),  # bcrypt itself sees no more
        ("a", "x" * 71, HTTPStatus.UNAUTHORIZED),
        ("a", "", HTTPStatus.UNAUTHORIZED),
        ("b", "", HTTPStatus.OK),
        ("b", "x" * 72, HTTPStatus.UNAUTHORIZED),
        ("c", "x" * 72, HTTPStatus.UNAUTHORIZED),
        ("c", "", HTTPStatus.UNAUTHORIZED),
        ("a", "\0", HTTPStatus.UNAUTHORIZED),
    ):
        given = Credentials(name.encode(), password.encode())
        assert [users.authenticate(given), users.authenticate(given)] == [status] * 2, (
            name,
            password,
        )


def test_an_invalid_hash_is_refused_at_start() -> None:
    with pytest.raises(PodtallyError, match=r"basic_auth_users\.a: "):
        Users({"a": "$2b$04$" + "." * 21 + "9" + "." * 31})


def timed(users: Users, name: str, password: str) -> float:
    """The CPU of this thread: others on the machine do not count."""
    start = time.thread_time()
    users.authenticate(Credentials(name.encode(), password.encode()))
    return time.thread_time() - start


def test_a_scrape_costs_no_hash_and_an_unknown_user_takes_as_long_as_a_wrong_password() -> None:
    users = Users({"a": hashed("right", DEAR)})
    hash_seconds = timed(users, "a", "right")
    assert hash_seconds > 0.01
    assert min(timed(users, "a", "right") for _ in range(5)) < hash_seconds / 50
    wrong = min(timed(users, "a", f"wrong{i}") for i in range(5))
    stranger = min(timed(users, "z", f"wrong{i}") for i in range(5))
    assert 0.7 < stranger / wrong < 1.4
    assert timed(users, "a", "wrong0") < hash_seconds / 50  # hashed again, as an unknown user is
    assert timed(users, "z", "wrong0") < hash_seconds / 50


def test_remembered_failures_are_bounded() -> None:
    users = Users({"a": hashed("right")})
    for i in range(300):
        assert users.authenticate(Credentials(b"a", b"%d" % i)) == HTTPStatus.UNAUTHORIZED
    assert len(users._refused) == 128
    assert users.authenticate(Credentials(b"a", b"right")) == HTTPStatus.OK


def test_a_flood_of_guesses_does_not_block_verified_users() -> None:
    users = Users({"a": hashed("right", DEAR)})
    assert users.authenticate(Credentials(b"a", b"right")) == HTTPStatus.OK
    result: list[HTTPStatus] = []

    def guess(i: int) -> None:
        result.append(users.authenticate(Credentials(b"a", b"guess %d" % i)))

    threads = [threading.Thread(target=guess, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    assert timed(users, "a", "right") < 0.01
    assert users.authenticate(Credentials(b"a", b"right")) == HTTPStatus.OK
    for thread in threads:
        thread.join()
    assert set(result) == {HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS}
    assert result.count(HTTPStatus.UNAUTHORIZED) >= 8
