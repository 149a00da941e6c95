# SPDX-License-Identifier: Apache-2.0
"""Loads the programs that a start needs while the agent's modules are still being imported.

The verifier and the interpreter then share the time of a start. Only a guess: it takes no lock,
pins nothing, and its user checks that it is the right one.
"""

import logging
import threading
from pathlib import Path

from podtally.errors import PodtallyError
from podtally.kernel.flow_programs import flow_job
from podtally.kernel.header_text import LayoutError
from podtally.kernel.loader import Loaded
from podtally.kernel.pins import Options, digest, read_about

log = logging.getLogger(__name__)


class Preload:
    """One guess, made in a thread of its own."""

    def __init__(self, pin_dir: Path, options: Options) -> None:
        self._pin_dir, self._options = pin_dir, options
        self._loaded: Loaded | None = None
        self._thread = threading.Thread(target=self._load, name="preload", daemon=True)
        self._thread.start()

    def take(self, options: Options, secrets: tuple[int, ...] | None) -> Loaded | None:
        """Return what was loaded, if it has these options and secrets (None: any)."""
        self._thread.join()
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return None
        about = loaded.job.about
        assert about is not None
        if about.options != options or (secrets is not None and about.secrets != secrets):
            loaded.close()
            return None
        return loaded

    def close(self) -> None:
        """Drop what was not taken."""
        self._thread.join()
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None

    def _load(self) -> None:
        secrets = None
        try:
            about = read_about(self._pin_dir / "maps" / "about")
            if about.digest == digest(self._options):
                return  # the pinned programs will do
            secrets = about.secrets
        except (OSError, ValueError):  # none is pinned, or by a release that wrote another kind
            pass
        try:
            self._loaded = Loaded(flow_job(self._options, self._pin_dir / "next", secrets))
        except (OSError, LayoutError, PodtallyError) as error:
            log.debug("nothing is loaded in advance: %s", error)  # the start itself says why
