# SPDX-License-Identifier: Apache-2.0
"""Reads policy files in a thread, once a second: a thousand policies take seconds to parse."""

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
_STOP_SECONDS = 0.9  # a load still running then is abandoned
_NOTHING = LoadedFiles(ParsedPolicies(), (), False)


class LoadedSets(NamedTuple):
    files: LoadedFiles
    candidates: LoadedFiles


class PolicyReader:
    """``read`` is the same object until a file changes; any thread may read it."""

    def __init__(self, files: PolicyFiles | None, candidates: PolicyFiles | None) -> None:
        self._files = files
        self._candidates = candidates
        self._worker = Worker("policy-files", self._run, log)
        self._loaded = threading.Event()  # once
        self._wake = threading.Event()
        self._stopped = False
        self.read = LoadedSets(_unread(files, False), _unread(candidates, True))

    def start(self) -> None:
        """Start; return when all files have been read once, or cannot be (see ``alive``)."""
        if not self._is_needed:
            return
        began = time.monotonic()
        self._worker.start()
        logged = False
        while not (self._loaded.wait(0.1) or self._worker.trouble) and self._worker.alive:
            if not logged and time.monotonic() - began > _LOG_AFTER_SECONDS:
                logged = True
                log.info("reading policy files; booking starts when they are loaded")
        if logged:
            log.info("policy files loaded in %.1f s", time.monotonic() - began)

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
    """Return what is in force until the files are read: every endpoint is in doubt."""
    if files is None:
        return _NOTHING
    problem = Problem("policy files", 0, "", "", "have not been read yet")
    return LoadedFiles(ParsedPolicies(all_unreadable(problem, candidate)), (), False)
