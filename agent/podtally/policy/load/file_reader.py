# SPDX-License-Identifier: Apache-2.0
"""Reads policy files in a thread of its own, once a second: a thousand policies take seconds."""

import logging
import threading
import time
from typing import NamedTuple

from podtally.policy.load.parser import ParsedPolicies
from podtally.policy.load.policy_files import LoadedFiles, PolicyFiles
from podtally.policy.load.stand_ins import all_unreadable
from podtally.policy.problems import Problem
from podtally.supervision.worker import Worker

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
_LOG_AFTER_SECONDS = 2.0
_STOP_SECONDS = 0.9  # a load that is under way then is left behind
_NOTHING = LoadedFiles(ParsedPolicies(), (), False)


class LoadedSets(NamedTuple):
    files: LoadedFiles
    candidates: LoadedFiles


class PolicyReader:
    """``read`` is the same object until a file has changed; may be read by any thread."""

    def __init__(self, files: PolicyFiles | None, candidates: PolicyFiles | None) -> None:
        self._files = files
        self._candidates = candidates
        self._worker = Worker("policy-files", self._run, log)
        self._loaded = threading.Event()  # once
        self._wake = threading.Event()
        self._stopped = False
        self.read = LoadedSets(_unread(files, False), _unread(candidates, True))

    def start(self) -> None:
        """Returns when all has been read once, or cannot be (see ``alive``)."""
        if not self._is_needed:
            return
        began = time.monotonic()
        self._worker.start()
        told = False
        while not (self._loaded.wait(0.1) or self._worker.trouble) and self._worker.alive:
            if not told and time.monotonic() - began > _LOG_AFTER_SECONDS:
                told = True
                log.info("reading policy files; counts are booked when they are read")
        if told:
            log.info("policy files were read in %.1f s", time.monotonic() - began)

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()
        self._worker.join(_STOP_SECONDS)

    def reload(self) -> None:
        self._wake.set()

    @property
    def alive(self) -> bool:
        return not self._is_needed or self._worker.alive

    @property
    def trouble(self) -> str:
        return self._worker.trouble

    @property
    def _is_needed(self) -> bool:
        return self._files is not None or self._candidates is not None

    def _run(self) -> None:
        while not self._stopped:
            self._load()
            self._loaded.set()
            self._wake.wait(INTERVAL_SECONDS)
            self._wake.clear()

    def _load(self) -> None:
        files = self._files.load() if self._files else _NOTHING
        candidates = self._candidates.load() if self._candidates else _NOTHING
        if files.changed or candidates.changed:
            self.read = LoadedSets(files, candidates)


def _unread(files: PolicyFiles | None, candidate: bool) -> LoadedFiles:
    """What is in force until files were read: nobody can say that nothing is declared."""
    if files is None:
        return _NOTHING
    problem = Problem("policy files", 0, "", "", "have not been read yet")
    return LoadedFiles(ParsedPolicies(all_unreadable(problem, candidate)), (), False)
