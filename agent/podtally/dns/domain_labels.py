# SPDX-License-Identifier: Apache-2.0
"""Shows a name as the value of the label `peer_domain`, and finds the network it belongs to."""

import logging
from collections.abc import Mapping
from pathlib import Path

from podtally.dns.registrable import PublicSuffixes, list_file
from podtally.errors import PodtallyError

log = logging.getLogger(__name__)

FULL, REGISTRABLE, DECLARED, OFF = "full", "registrable", "declared", "off"
MODES = (REGISTRABLE, FULL, DECLARED, OFF)
AMBIGUOUS_LABEL, UNVERIFIED_LABEL = "ambiguous", "unverified"  # in the place of a domain
_MAX_CACHED = 16384


class DomainLabels:
    """``declared`` are the domains of named networks: NAME, or *.NAME for all below it."""

    def __init__(
        self, mode: str = REGISTRABLE, declared: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        self._mode = mode
        self._networks = {
            pattern: network for network, each in (declared or {}).items() for pattern in each
        }
        self._suffixes: PublicSuffixes | None = None
        self._cached: dict[str, str] = {}
        self.trouble = ""  # why no labels can be shown

    def label(self, name: str) -> str:
        """Return the label of a name; "" if it shows none."""
        if self._mode == OFF or not name:
            return ""
        if self._mode == FULL:
            return name
        found = self._cached.get(name)
        if found is None:
            if len(self._cached) >= _MAX_CACHED:
                self._cached.clear()
            found = self._cached[name] = self._made(name)
        return found

    def network(self, name: str) -> str:
        """Return the named network that a name belongs to, "" if there is none."""
        return self._networks.get(self._pattern(name), "")

    def _made(self, name: str) -> str:
        if self._mode == DECLARED:
            return self._pattern(name)
        suffixes = self._list()
        return suffixes.registrable(name) if suffixes is not None else ""

    def _pattern(self, name: str) -> str:
        """Return the longest declared pattern that matches a name."""
        if not self._networks:
            return ""
        if name in self._networks:
            return name
        behind = name
        while "." in behind:
            behind = behind.partition(".")[2]
            if f"*.{behind}" in self._networks:
                return f"*.{behind}"
        return ""

    def _list(self) -> PublicSuffixes | None:
        """Return the list, which is read when the first name is shown."""
        if self._suffixes is None and not self.trouble:
            try:
                self._suffixes = PublicSuffixes(self._path())
            except PodtallyError as error:
                self.trouble = str(error)
                log.error("no domain names are shown in metrics: %s", error)
        return self._suffixes

    def _path(self) -> Path:
        return list_file()
