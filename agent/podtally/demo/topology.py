# SPDX-License-Identifier: Apache-2.0
"""The demo's hosts, their addresses and ports, and the agent's configuration."""

from pathlib import Path
from typing import NamedTuple

PREFIX = "podtally-demo-"  # of every network namespace of the demo
NODE = PREFIX + "node"  # has the bridge, the hosts' ends of the veths, and the agent
BRIDGE = "pt-demo0"
WATCHED = "ptd-*"

PIN_DIR = Path("/sys/fs/bpf/podtally-demo")
STATE_DIR = Path("/run/podtally-demo")
POLICIES = STATE_DIR / "policies"
CANDIDATES = STATE_DIR / "candidates"  # empty: for policies to try
EVENT_LOG = STATE_DIR / "events.jsonl"
LOCK = "\0podtally-demo"
AGENT_PORT = 9775  # inside the node's namespace
EPOCH_SECONDS = 1.0

FRONTEND_PORT = 80
BACKEND_PORT = 3000
DATABASE_PORT = 3306
OUTSIDE_PORT = 4444
BANK_PORT = 3306
DNS_PORT = 53

BANK = "203.0.113.20"
OLD_BANK = "203.0.113.10"  # excluded by the policy for the bank's network


SHOP = "shop"  # the namespace of most pods


class Host(NamedTuple):
    """A machine on the bridge: a pod with a watched interface, or one outside the node."""

    name: str  # its role, and for a pod its workload
    address: str
    pod: str = ""  # "" outside
    namespace: str = SHOP
    also: tuple[str, ...] = ()  # more addresses

    @property
    def netns(self) -> str:
        return PREFIX + self.name

    @property
    def interface(self) -> str:
        """The node's end of its veth; only those of pods match ``WATCHED``."""
        return f"{'ptd' if self.pod else 'ptx'}-{self.name}"


FRONTEND = Host("frontend", "10.99.0.2", "frontend-7d")
BACKEND = Host("backend", "10.99.0.3", "backend-5c")
DATABASE = Host("database", "10.99.0.4", "database-0")
STRAY = Host("stray", "10.99.0.5", "stray-x2")
USER = Host("user", "10.99.0.6", "user-4b")
PAYMENTS = Host("payments", "10.99.1.2", "payments-8e", "billing")
# No pod has a reason to reach its first address, which has no name in the configuration.
OUTSIDE = Host("outside", "198.18.7.7", also=(BANK, OLD_BANK))

RESOLVER = Host("dns", "198.18.0.53")

# What the resolver answers.
LEAK_NAME = "exfil.example.net"
BANK_NAME = "pay.bank.example"
OLD_BANK_NAME = "old.bank.example"
NAMES = {LEAK_NAME: OUTSIDE.address, BANK_NAME: BANK, OLD_BANK_NAME: OLD_BANK}

PODS = (USER, FRONTEND, BACKEND, DATABASE, PAYMENTS, STRAY)
HOSTS = (*PODS, OUTSIDE, RESOLVER)


def agent_config() -> str:
    """Return the agent's configuration file: the pods, outside networks, and DNS."""
    endpoints = "".join(
        f"  - netns: {pod.netns}\n"
        f"    namespace: {pod.namespace}\n"
        f"    name: {pod.pod}\n"
        f"    workload: {pod.name}\n"
        f"    workload_kind: {'StatefulSet' if pod is DATABASE else 'Deployment'}\n"
        f"    labels: {{app: {pod.name}{', role: user' if pod is USER else ''}}}\n"
        for pod in PODS
    )
    networks = f"  bank: 203.0.113.0/24\n  old-bank: {OLD_BANK}/32\n  dns: {RESOLVER.address}/32\n"
    names = f"resolvers: {RESOLVER.address}\ndomains: full\n"
    history = f"{{path: {STATE_DIR / 'history.db'}, max_bytes: 16MiB, min_free_bytes: 0}}"
    return f"endpoints:\n{endpoints}networks:\n{networks}{names}history: {history}\n"
