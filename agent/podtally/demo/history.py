# SPDX-License-Identifier: Apache-2.0
"""Shows what a pod did after it is gone, as ``podtally flows`` does."""

import http.client

import msgspec

from podtally.api.schema import FLOWS, Flows
from podtally.commands.shared.tables import BOLD, Style, paint
from podtally.commands.stored.flow_output import table_lines
from podtally.demo.agent import DemoAgent
from podtally.errors import PodtallyError

_COLUMNS = "workload,initiator,peer,domain,address,port,protocol,verdict"


def lines(agent: DemoAgent, pod: str, style: Style) -> list[str]:
    """Return the pod's conversations from the history; PodtallyError if the agent has none."""
    status, body = agent.get(f"{FLOWS}?pod={pod}&by={_COLUMNS}")
    if status != http.client.OK:
        raise PodtallyError(f"{agent.where.url}{FLOWS} answered {status}: {body[:200].strip()}")
    found = msgspec.json.decode(body.encode(), type=Flows)
    if not found.rows:
        raise PodtallyError(f"the history has nothing of {pod}")
    head = f"WHAT {pod} DID, which is gone (podtally flows --pod {pod})"
    return [paint(head, BOLD, style), *table_lines(found.rows, False, style)]
