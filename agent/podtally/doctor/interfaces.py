"""Probes of the interfaces: which would be watched, and whose programs stand before ours."""

from collections.abc import Iterator
from pathlib import Path

from podtally.doctor.finding import Finding, words
from podtally.links import tcx
from podtally.links.clsact import Clsact
from podtally.links.messages import all_links
from podtally.links.model import ForeignProgram, Hook, Link
from podtally.links.netlink import Requests
from podtally.links.wanted import pod_interfaces

_SHOWN = 8  # names on one line


def interfaces(pin_dir: Path, pattern: str | None) -> Iterator[Finding]:
    requests = Requests()
    try:
        role = pod_interfaces(pattern)
        watched = [link for link in all_links(requests) if role(link) is not None]
        yield _watched(watched, pattern)
        for link in watched:
            yield from _foreign(link, pin_dir, requests)
    except OSError as error:
        yield Finding("interfaces", None, f"cannot be listed: {words(error)}", "run as root")
    finally:
        requests.close()


def _watched(links: list[Link], pattern: str | None) -> Finding:
    if not links:
        chosen = f"none matches {pattern!r}" if pattern else "no pod's interface is here yet"
        mend = "new ones are watched as they appear; --interfaces chooses others"
        return Finding("interfaces", None, chosen, mend)
    names = ", ".join(link.name for link in links[:_SHOWN])
    more = f" and {len(links) - _SHOWN} more" if len(links) > _SHOWN else ""
    return Finding("interfaces", True, f"{len(links)} would be watched: {names}{more}")


def _foreign(link: Link, pin_dir: Path, requests: Requests) -> Iterator[Finding]:
    name = f"programs on {link.name}"
    try:
        others = [p for hook in Hook for p in _on(link.ifindex, hook, pin_dir, requests)]
    except OSError as error:
        yield Finding(name, None, f"cannot be listed: {words(error)}", "run as root")
        return
    for other in others:
        what = f"{other.mode} {other.hook}: {other.name or 'unnamed'} (id {other.prog_id})"
        if other.before_ours:
            mend = "attach podtally first, or have it return TC_ACT_UNSPEC (TCX_NEXT)"
            detail = f"{what} runs before ours; packets it ends the chain for are not counted"
            yield Finding(name, False, detail, mend)
        else:
            yield Finding(name, None, f"{what} runs after ours")


def _on(ifindex: int, hook: Hook, pin_dir: Path, requests: Requests) -> list[ForeignProgram]:
    """List the others; all of TCX runs before clsact (``tc_run()`` follows ``tcx_run()``)."""
    clsact = Clsact(requests, None)
    filters = clsact.foreign(ifindex, hook)
    if not tcx.supported():
        return filters
    ours_is_a_filter = clsact.attached(ifindex, hook) is not None
    links = tcx.Tcx(pin_dir / "links").foreign(ifindex, hook)
    if ours_is_a_filter:
        return [p._replace(before_ours=True) for p in links] + filters
    return links + [p._replace(before_ours=False) for p in filters]
