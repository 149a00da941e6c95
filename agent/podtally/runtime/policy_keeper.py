# SPDX-License-Identifier: Apache-2.0
"""Keeps the last good policies over a restart, in a file of the state directory.

An agent that starts while the API server is away, or while a policy file is broken, then judges
as the one before it did, for a day at most. Writing has a thread of its own: a thousand policies
take a tenth of a second.
"""

import logging
import os
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from podtally.policy.load.kept import (
    NOTHING_KEPT,
    KeptFile,
    KeptPolicies,
    KeptResource,
    decode,
    encode,
    good_part,
)
from podtally.policy.load.policy_sources import PoliciesInForce
from podtally.supervision.conditions import Condition
from podtally.supervision.worker import Worker

log = logging.getLogger(__name__)

FILE = "policies"
REFRESH_SECONDS = 600.0  # how often the times in the file are brought up to date
PACE_SECONDS = 5.0  # from one write to the next
_MAX_BYTES = 64 << 20
_STOP_SECONDS = 0.9  # a write still running then is abandoned


class PolicyKeeper:
    """``kept`` is what the agent before left; ``offer`` is for the main thread."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE
        self.kept = _read(self._path).recent(time.time())
        self._latest = self.kept  # what is to be in the file
        self._merging = threading.Lock()
        self._in_force = PoliciesInForce()
        self._contact: Mapping[str, float] = {}
        self._failing = Condition(log, logging.WARNING)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._worker = Worker("policy-keeper", self._run, log)

    def start(self) -> None:
        self._worker.start()

    def stop(self) -> None:
        self._wake.set()  # first: _run() writes once more
        self._stop.set()
        self._worker.join(_STOP_SECONDS)

    @property
    def trouble(self) -> str:
        return self._worker.trouble

    def offer(self, in_force: PoliciesInForce, contact: Mapping[str, float]) -> None:
        """Keep these if they have changed. ``contact`` is when each resource of the API was last
        heard of, in seconds since 1970.

        Each change is remembered at once, also if it is replaced before it can be written: a file
        that is broken a moment later stays in force as it was here.
        """
        self._contact = contact
        if in_force is not self._in_force:
            self._in_force = in_force
            self._merge()
            self._wake.set()

    def _merge(self) -> KeptPolicies:
        with self._merging:
            now = time.time()
            self._latest = merged(self._latest, self._in_force, self._contact, now).recent(now)
            return self._latest

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(REFRESH_SECONDS)
            self._wake.clear()
            self._keep()
            self._stop.wait(PACE_SECONDS)
        if self._wake.is_set():  # a change may have waited for its turn
            self._keep()

    def _keep(self) -> None:
        if not (self._in_force.files or self._in_force.resources):
            return
        try:
            _write(self._path, encode(self._merge()))
        except OSError as error:
            self._failing.met("cannot keep the policies in %s: %s", self._path, error)
            return
        self._failing.over("the policies are kept again")


def merged(
    before: KeptPolicies, in_force: PoliciesInForce, contact: Mapping[str, float], now: float
) -> KeptPolicies:
    """Return what is to be kept now.

    A file that is broken keeps the time of its last good version; a resource that is not synced
    keeps what there was.
    """
    files = {}
    for name, parsed in in_force.files.items():
        earlier = before.files.get(name)
        if name not in in_force.stale:
            files[name] = KeptFile(now, good_part(parsed))
        elif earlier is not None:
            files[name] = KeptFile(earlier.good, good_part(parsed))
    resources = dict(before.resources)
    for name, objects in in_force.resources.items():
        resources[name] = KeptResource(contact.get(name, now), objects)
    return KeptPolicies(files, resources)


def kept_note(names: Collection[str], kept: KeptPolicies, now: float) -> str:
    """Return how old the policies are that are in force of these resources; "" without any."""
    times = [kept.resources[name].confirmed for name in names if name in kept.resources]
    if not times:
        return ""
    minutes = max(0.0, now - min(times)) / 60
    return f"in force are the policies of {minutes:.0f} min ago ({', '.join(names)})"


def _read(path: Path) -> KeptPolicies:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            return decode(file.read(_MAX_BYTES))
    except FileNotFoundError:
        return NOTHING_KEPT
    except (OSError, ValueError) as error:
        log.warning("cannot read the kept policies %s: %s; going on without them", path, error)
        return NOTHING_KEPT


def _write(path: Path, data: bytes) -> None:
    """Replace the file. It need not survive the host, so it is not synced to disk."""
    if len(data) > _MAX_BYTES:
        raise OSError(f"they take {len(data)} bytes, the most is {_MAX_BYTES}")
    fresh = path.with_name(f"{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(fresh, flags, 0o640), "wb") as file:
        file.write(data)
    fresh.rename(path)
