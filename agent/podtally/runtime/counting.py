# SPDX-License-Identifier: Apache-2.0
"""The first half of a start: installs the programs and attaches, so that packets are counted.

It imports nothing that books. What does takes most of a start's time to import, and is imported
while the kernel counts already (``runtime/daemon``).
"""

import logging
import os
from contextlib import ExitStack

from podtally.attach.attacher import Attacher
from podtally.attach.selection import pod_interfaces
from podtally.attach.watcher import LinkWatcher
from podtally.config import Config
from podtally.errors import PodtallyError
from podtally.kernel import capabilities
from podtally.kernel.account_map import UNATTRIBUTED, AccountMap
from podtally.kernel.piece_ring import enable
from podtally.kernel.pins import Generation, digest
from podtally.kernel.preload import Preload
from podtally.ledger.checkpoint.checkpoint import Parts, Position
from podtally.runtime.generations import Installed, install, options_of
from podtally.runtime.last_checkpoint import put_aside, read_checkpoint
from podtally.runtime.link_events import LinkEventQueue
from podtally.runtime.opening import Opening
from podtally.runtime.retransmit_tracing import trace_retransmits
from podtally.runtime.rights import needed_rights

log = logging.getLogger(__name__)


class Counting:
    """Programs that count, and the checkpoint which their counts continue.

    ``is_todays`` is False if a change of generations had to be finished first; then the programs
    that ``config`` asks for are still to be installed, by another ``Counting``.
    """

    def __init__(self, config: Config, opening: Opening, preload: Preload | None = None) -> None:
        opening.server.starting("loading the kernel programs")
        self.installed, self.before, self._parts = _install(config, opening, preload)
        generation = self.generation
        opening.server.starting("attaching to interfaces")
        with ExitStack() as opened:
            self.accounts = AccountMap(generation)
            opened.callback(self.accounts.close)
            self.accounts.open_accounts(UNATTRIBUTED)
            present = self.accounts.read().ifindex.tolist()
            self.stale_interfaces = frozenset(present) - {UNATTRIBUTED}
            self.names_from = enable(generation, frozenset(config.names_from))
            self.events = LinkEventQueue()
            self._attach(config, opened)
            trace_retransmits(generation, opening.pins.links)
            self.is_todays = generation.about.digest == digest(options_of(config))
            if self.is_todays:
                _give_up_rights(config)
            self._opened = opened.pop_all()

    @property
    def generation(self) -> Generation:
        return self.installed.current

    def take_parts(self) -> Parts | None:
        """Return what the checkpoint has, once: it is as large as the books."""
        parts, self._parts = self._parts, None
        return parts

    def close(self) -> None:
        """Close everything but the kernel's programs, which keep counting."""
        self._opened.close()

    def _attach(self, config: Config, opened: ExitStack) -> None:
        """Attach to all interfaces that are there; what else is attached stays for now."""
        programs = self.generation.program_fds()
        for fd in programs.values():
            opened.callback(os.close, fd)
        self.attacher = Attacher(
            config.pin_dir, programs, config.attach, config.state_dir, config.attach_first
        )
        opened.callback(self.attacher.close)
        wanted = pod_interfaces(config.interfaces)
        self.watcher = LinkWatcher(self.attacher, wanted, self.accounts.open_accounts, self.events)
        opened.callback(self.watcher.stop)
        self.watcher.watch_present()


def _install(
    config: Config, opening: Opening, preload: Preload | None
) -> tuple[Installed, Position | None, Parts | None]:
    """Install the programs; return them, and the checkpoint that they continue, if any."""
    before, parts = read_checkpoint(opening.checkpoint)
    installed = install(opening.pins, config, before.generation if before else None, preload)
    if before is not None and not installed.goes_on_from(before.generation):
        put_aside(opening.checkpoint, "it belongs to other kernel programs than those pinned here")
        return installed, None, None
    return installed, before, parts


def _give_up_rights(config: Config) -> None:
    """Drop all capabilities that a running agent does not need.

    Threads that serve clients have done so; others are not started yet.
    """
    needed = needed_rights(config)
    if capabilities.in_effect() <= needed:
        return
    try:
        kept = capabilities.keep(needed)
    except (OSError, PodtallyError) as error:
        log.warning("cannot drop capabilities: %s", error)
        return
    log.debug("the capabilities are now %s", ", ".join(sorted(kept)) or "none")
