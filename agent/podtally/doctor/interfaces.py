"""Probes of the interfaces: which would be watched, and whose programs stand before ours."""

from collections.abc import Iterator

from podtally.config import Config
from podtally.doctor.finding import Finding, words
from podtally.errors import PodtallyError
from podtally.links.attach import Attacher
from podtally.links.messages import all_links
from podtally.links.model import Link
from podtally.links.netlink import Requests
from podtally.links.routes import uplinks
from podtally.links.wanted import pod_interfaces, refusals

_SHOWN = 8  # names on one line


def interfaces(config: Config) -> Iterator[Finding]:
    requests = Requests()
    try:
        role = pod_interfaces(config.interfaces)
        leading_out = uplinks(requests)
        links = all_links(requests)
        watched = [link for link in links if role(link, lambda: leading_out)]
    except OSError as error:
        yield Finding("interfaces", None, f"cannot be listed: {words(error)}", "run as root")
        return
    finally:
        requests.close()
    yield _watched(watched, config.interfaces)
    for refusal in refusals(config.interfaces, links):
        yield Finding("named interface", None, refusal, "correct --interfaces")
    if watched:
        yield from _programs(watched, config)


def _programs(watched: list[Link], config: Config) -> Iterator[Finding]:
    try:
        attacher = Attacher(config.pin_dir, {}, config.attach)
    except (OSError, PodtallyError) as error:
        yield Finding("programs on them", None, f"cannot be listed: {error}", "run as root")
        return
    try:
        for link in watched:
            yield from _foreign(link, attacher)
    finally:
        attacher.close()


def _watched(links: list[Link], pattern: str | None) -> Finding:
    if not links:
        chosen = f"none matches {pattern!r}" if pattern else "no pod's interface is here yet"
        mend = "new ones are watched as they appear; --interfaces chooses others"
        return Finding("interfaces", None, chosen, mend)
    names = ", ".join(link.name for link in links[:_SHOWN])
    more = f" and {len(links) - _SHOWN} more" if len(links) > _SHOWN else ""
    return Finding("interfaces", True, f"{len(links)} would be watched: {names}{more}")


def _foreign(link: Link, attacher: Attacher) -> Iterator[Finding]:
    name = f"programs on {link.name}"
    try:
        others = attacher.foreign(link.ifindex)
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
