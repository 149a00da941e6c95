# SPDX-License-Identifier: Apache-2.0
"""Which capabilities a configuration needs once the programs are loaded."""

from pathlib import Path

from podtally.config import STANDARD_OUTPUT, Config
from podtally.kernel import capabilities


def needed_rights(config: Config) -> frozenset[str]:
    """Return the capabilities of the running agent, also for the directories it writes into."""
    logs = [str(each) for each in (config.flow_log, config.events) if each]
    folders = [Path(each).parent for each in logs if each != STANDARD_OUTPUT]
    if config.history.is_on:
        folders.append(config.history.file.parent)
    written = [config.state_dir, config.pin_dir, *folders]
    return capabilities.running(each for each in written if each.exists())
