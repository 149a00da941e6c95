# SPDX-License-Identifier: Apache-2.0
"""Probes of the interfaces: which would be watched, and which other programs they have."""

from collections.abc import Iterator
from functools import cache, partial

from podtally.attach.attacher import Attacher
from podtally.attach.selection import counted_below, pod_interfaces, refusals
from podtally.attach.surroundings import surroundings
from podtally.config import Config
from podtally.doctor.finding import DoctorFinding, error_text
from podtally.errors import PodtallyError
from podtally.netlink.links import all_links
from podtally.netlink.model import Link
from podtally.netlink.netlink import Requests
from podtally.netlink.routes import uplinks

_SHOWN = 8  # names on one line


def interfaces(config: Config) -> Iterator[DoctorFinding]:
    requests = Requests()
    try:
        role = pod_interfaces(config.interfaces)
        links = all_links(requests)
        host = surroundings(links, cache(partial(uplinks, requests)))
        watched = [link for link in links if role(link, host)]
    except OSError as error:
        yield DoctorFinding(
            "interfaces", None, f"cannot be listed: {error_text(error)}", "run as root"
        )
        return
    finally:
        requests.close()
    yield _watched(watched, config.interfaces)
    for refusal in refusals(config.interfaces, links):
        yield DoctorFinding("named interface", None, refusal, "correct --interfaces")
    for note in counted_below(config.interfaces, links):
        yield DoctorFinding("named interface", None, note)
    if watched:
        yield from _programs(watched, config)


def _programs(watched: list[Link], config: Config) -> Iterator[DoctorFinding]:
    try:
        attacher = Attacher(config.pin_dir, {}, config.attach, first=config.attach_first)
    except (OSError, PodtallyError) as error:
        yield DoctorFinding("other programs", None, f"cannot be listed: {error}", "run as root")
        return
    try:
        for link in watched:
            yield from _foreign(link, attacher)
    finally:
        attacher.close()


def _watched(links: list[Link], pattern: str | None) -> DoctorFinding:
    if not links:
        chosen = f"none matches {pattern!r}" if pattern else "no pod interfaces yet"
        fix = "new ones are watched as they appear; --interfaces selects others"
        return DoctorFinding("interfaces", None, chosen, fix)
    names = ", ".join(link.name for link in links[:_SHOWN])
    more = f" and {len(links) - _SHOWN} more" if len(links) > _SHOWN else ""
    return DoctorFinding("interfaces", True, f"{len(links)} would be watched: {names}{more}")


def _bypass(link: Link, attacher: Attacher) -> Iterator[DoctorFinding]:
    try:
        hidden = attacher.bypassing_bytes(link.ifindex)
    except OSError:
        return
    if hidden:
        detail = (
            f"{hidden} bytes went to or from the pod behind it without passing it "
            "(bpf_redirect_peer, netkit): not counted"
        )
        mode = "bpf.datapathMode=veth and " if link.kind == "netkit" else ""
        fix = f"Cilium: set {mode}bpf.hostLegacyRouting=true (docs/networks.md)"
        yield DoctorFinding(f"bypass of {link.name}", False, detail, fix)


def _foreign(link: Link, attacher: Attacher) -> Iterator[DoctorFinding]:
    name = f"programs on {link.name}"
    try:
        others = attacher.foreign(link.ifindex)
    except OSError as error:
        yield DoctorFinding(name, None, f"cannot be listed: {error_text(error)}", "run as root")
        return
    yield from _bypass(link, attacher)
    for other in others:
        what = f"{other.mode} {other.hook}: {other.name or 'unnamed'} (id {other.prog_id})"
        if other.before_ours:
            fix = "run podtally with --attach-first, or make it return TC_ACT_UNSPEC (TCX_NEXT)"
            detail = (
                f"{what} runs before podtally; packets that it does not pass on are not counted"
            )
            yield DoctorFinding(name, False, detail, fix)
        else:
            yield DoctorFinding(name, None, f"{what} runs after podtally")
