# SPDX-License-Identifier: Apache-2.0
"""podtally's own programs: the job that loads them, shipped or compiled here."""

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

from podtally.errors import PodtallyError
from podtally.kernel import abi, pins
from podtally.kernel.load_error import load_error
from podtally.kernel.loader import LoadJob
from podtally.kernel.program_object import ProgramObject, decode, shipped
from podtally.kernel.sources import BPF_DIR, SOURCE

DNS_PORT = 53
MAX_DNS_PORTS = 2  # beside it
TIMEOUT_SECONDS = 600.0  # compiling takes some 5 s of CPU: on a starved host that may be minutes


def flow_job(
    options: pins.Options,
    into: Path,
    known_secrets: tuple[int, ...] | None = None,
    follows: str = "",
    compiled: ProgramObject | None = None,
) -> LoadJob:
    """The job that loads podtally's own programs; ``follows`` is the checkpoint's generation.

    Fingerprints are kept over an upgrade by passing the secrets of the generation
    before: connections are joined to their past by them.
    """
    programs = compiled or shipped()
    words = known_secrets
    if words is None or len(words) != pins.SECRETS:
        words = tuple(secrets.randbits(64) | i & 1 for i in range(pins.SECRETS))
    about = pins.About(
        generation=secrets.token_hex(8),
        digest=pins.digest(options),
        options=options,
        secrets=words,
        header=programs.header,
        follows=follows,
    )
    return LoadJob(programs, parameters_of(options, words, about.layout), str(into), about)


def parameters_of(
    options: pins.Options, words: tuple[int, ...], layout: abi.Layout
) -> dict[str, int]:
    """Return what bpf/podtally.c and the headers it includes declare as PARAMETER()."""
    dns_ports = (*options.dns_ports, *(DNS_PORT,) * MAX_DNS_PORTS)[:MAX_DNS_PORTS]
    slots, blocks = options.slots, options.slots // layout.block_slots
    return {
        "slots": slots,
        "slot_mask": slots - 1,
        "slot_shift": slots.bit_length() - 1,
        "rows": 2 * slots,
        "block_mask": blocks - 1,
        "block_shift": blocks.bit_length() - 1,
        "blocks": 2 * blocks,
        "book_entries": options.books,
        "lane_entries": options.books // 2 * layout.lanes,
        "bound_entries": options.books // 2,
        **{f"dns_port_{i}": _network_order(port) for i, port in enumerate(dns_ports, 1)},
        **{f"secret_{i}": word for i, word in enumerate(words)},
    }


def _network_order(port: int) -> int:
    return int.from_bytes(port.to_bytes(2, sys.byteorder), "big")


def compile_here(source: Path = BPF_DIR / SOURCE, keep: Path | None = None) -> ProgramObject:
    """Compile with this machine's bcc, in a process of its own: LLVM takes over 100 MB.

    Raises PodtallyError. A long log of the compiler goes to the file ``keep``.
    """
    try:
        result = subprocess.run(
            [
                *(sys.executable, "-m", "podtally.kernel.builder", str(source)),
                *("--output", "-", "--parent", str(os.getpid())),
            ],
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PodtallyError(
            f"compiling {source} took longer than {TIMEOUT_SECONDS:.0f} s",
            "look for a host short of CPU or memory",
        ) from None
    if result.returncode == -signal.SIGXCPU:
        raise PodtallyError(f"compiling {source} took more CPU than it ever needs")
    if result.returncode:
        output = result.stderr.decode(errors="replace").strip() or f"exit {result.returncode}"
        raise load_error(str(source), output, keep)
    return decode(result.stdout, str(source))
