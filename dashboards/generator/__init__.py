# SPDX-License-Identifier: Apache-2.0
"""The dashboards as code: what they ask Prometheus, and how Grafana shows it.

``python -m dashboards.generator`` writes ``dashboards/*.json``; a test holds them against it.
"""

from dashboards.generator.agent import AGENT
from dashboards.generator.dns import DNS
from dashboards.generator.egress import EGRESS
from dashboards.generator.health import HEALTH
from dashboards.generator.model import Dashboard
from dashboards.generator.overview import OVERVIEW
from dashboards.generator.pod import POD
from dashboards.generator.policy import POLICY

DASHBOARDS: tuple[Dashboard, ...] = (OVERVIEW, POD, EGRESS, POLICY, HEALTH, DNS, AGENT)
