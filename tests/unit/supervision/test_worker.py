# SPDX-License-Identifier: Apache-2.0
"""Threads that others depend on keep running after an error."""

import errno
import logging
import os
import threading
import time

import pytest

from podtally.supervision.worker import Worker

LOG = logging.getLogger("test")
SECONDS = 20.0


class Loop:
    """Fails as often as requested, then waits to be stopped."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.works, self.stop = threading.Event(), threading.Event()

    def __call__(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.works.set()
        assert self.stop.wait(SECONDS)


def short() -> OSError:
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_it_goes_on_when_there_are_descriptors_again(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(short(), short(), short())
    worker = Worker("finder", loop, LOG)
    assert not worker.alive
    worker.start()
    assert loop.works.wait(SECONDS)
    assert worker.alive
    assert worker.failures == 3
    assert "Too many open files" in worker.trouble
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "Traceback" not in caplog.text
    loop.stop.set()
    worker.join(SECONDS)
    assert not worker.alive


def test_a_bug_is_reported_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(ValueError("odd"), ValueError("odd"))
    worker = Worker("finder", loop, LOG)
    worker.start()
    assert loop.works.wait(SECONDS)
    loop.stop.set()
    worker.join(SECONDS)
    assert caplog.text.count("Traceback") == 1
    assert "finder" in caplog.text


def test_it_ends_while_it_fails() -> None:
    fails = threading.Event()

    def loop() -> None:
        if not fails.is_set():
            raise short()

    worker = Worker("finder", loop, LOG)
    worker.start()
    time.sleep(0.2)
    assert worker.alive
    fails.set()
    worker.join(SECONDS)
    assert not worker.alive
