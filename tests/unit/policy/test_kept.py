# SPDX-License-Identifier: Apache-2.0
"""Policies kept over a restart: the same ones, for a day at most, until the sources give them."""

import json
import os
import stat
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from podtally.policy.ingress import DeclaredIngress, IngressRoute, IngressServicePort
from podtally.policy.load.api_resources import POLICY_RESOURCE_NAMES
from podtally.policy.load.kept import (
    MAX_AGE_SECONDS,
    KeptFile,
    KeptPolicies,
    KeptResource,
    decode,
    encode,
    good_part,
)
from podtally.policy.load.live_policies import LivePolicies
from podtally.policy.load.parser import ParsedPolicies, read_text
from podtally.policy.load.policy_files import PolicyFiles
from podtally.policy.load.policy_sources import PoliciesInForce, PolicySources
from podtally.policy.model import DENIED, UNDECLARED, UNKNOWN
from podtally.policy.reference.engine import Engine
from podtally.runtime.policy_keeper import FILE, PolicyKeeper, kept_note, merged
from tests.unit.policy.policy_api import decoded, ingress, network_policy, page
from tests.unit.policy.policy_support import ask, pod

CASES = Path(__file__).parents[2] / "cases"
NOW = 1_700_000_000.0
QUESTION = ask(pod("shop/a"), pod("shop/b", "10.99.0.2"))
DENY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress]}
"""
BROKEN = DENY.replace("podSelector", "podSelektor")


def verdict(policies: PolicySources) -> str:
    return Engine(policies.declared().policies).judge(QUESTION).verdict


def eventually(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("path", sorted(CASES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_what_is_kept_is_what_it_was(path: Path) -> None:
    parsed = good_part(read_text(path.read_bytes(), str(path)))
    route = IngressRoute("*.example.com", "/", "Prefix", IngressServicePort("web", 80, ""))
    declared = DeclaredIngress("shop", "web", "", (route,), ("198.18.0.1",))
    objects = decoded("networkpolicies", network_policy("shop/shut", ingress=[{}]))
    kept = KeptPolicies(
        {str(path): KeptFile(NOW, parsed._replace(ingresses=(declared,)))},
        {"networkpolicies": KeptResource(NOW, tuple(objects))},
    )
    assert decode(encode(kept)) == kept


def test_a_file_that_is_broken_at_the_start_is_in_force_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(BROKEN)
    fresh = PolicySources(PolicyFiles([path]))
    fresh.start()
    assert verdict(fresh) == UNKNOWN
    fresh.stop()
    kept = PolicyFiles([path], kept={str(path): read_text(DENY, str(path))})
    sources = PolicySources(kept)
    sources.start()
    try:
        assert verdict(sources) == DENIED
        assert sources.stale_files == (str(path),)
        assert sources.state().stale_files == 1
        path.write_text(DENY)
        sources.reload()
        eventually(lambda: (sources.declared(), sources.stale_files)[1] == ())
    finally:
        sources.stop()


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_path_that_is_missing_at_the_start_keeps_its_files(
    tmp_path: Path, is_folder: bool
) -> None:
    path = tmp_path / "policies"
    name = str(path / "a.yaml" if is_folder else path)
    loaded = PolicyFiles([path], kept={name: read_text(DENY, name)}).load()
    assert [policy.name for policy in loaded.parsed.policies] == ["shut"]
    assert loaded.stale == (name,)


def test_a_file_that_was_removed_from_its_folder_is_withdrawn(tmp_path: Path) -> None:
    name = str(tmp_path / "a.yaml")
    loaded = PolicyFiles([tmp_path], kept={name: read_text(DENY, name)}).load()
    assert loaded.parsed == ParsedPolicies()
    assert loaded.stale == ()


def live(**kept: object) -> LivePolicies:
    """The API gives everything but what is named here."""
    objects = tuple(decoded("networkpolicies", network_policy("shop/shut", ingress=[])))
    made = LivePolicies({"networkpolicies": objects, **kept})  # type: ignore[dict-item]
    for name in POLICY_RESOURCE_NAMES - {"networkpolicies", *kept}:
        made.apply(page(name, []))
    return made


def test_while_the_api_is_away_what_was_kept_is_in_force() -> None:
    policies = live()
    sources = PolicySources(live=policies)
    assert verdict(sources) == UNKNOWN  # the API may give others within seconds
    sources.use_kept()
    assert verdict(sources) == DENIED
    assert not sources.declared().unsynced
    assert list(sources.kept) == ["networkpolicies"]
    assert sources.state().unsynced == sources.state().kept == ("networkpolicies",)
    assert "networkpolicies" not in sources.in_force.resources
    policies.apply(page("networkpolicies", [], last=False))
    assert verdict(sources) == DENIED
    policies.apply(page("networkpolicies", [], first=False))
    assert verdict(sources) == UNDECLARED
    assert not sources.kept
    assert sources.in_force.resources["networkpolicies"] == ()


def test_ingresses_are_kept_as_well() -> None:
    policies = live(ingresses=tuple(decoded("ingresses", ingress("shop/web"))))
    assert not policies.now().ingresses_known
    policies.use_kept()
    assert policies.now().ingresses_known
    assert [each.name for each in policies.now().ingresses] == ["web"]


def test_nothing_kept_changes_nothing() -> None:
    policies = LivePolicies()
    policies.use_kept()
    assert len(policies.now().stand_ins) == len(POLICY_RESOURCE_NAMES) - 1


def test_a_file_that_breaks_before_its_good_version_is_written(tmp_path: Path) -> None:
    name = str(tmp_path / "a.yaml")
    good = read_text(DENY, name)
    keeper = PolicyKeeper(tmp_path)
    keeper.offer(PoliciesInForce({name: good}), {})
    keeper.offer(PoliciesInForce({name: good}, (name,)), {})
    keeper.start()
    eventually((tmp_path / FILE).exists)
    keeper.stop()
    assert PolicyKeeper(tmp_path).kept.files[name].parsed == good


def test_a_change_that_waits_to_be_written_is_written_at_the_stop(tmp_path: Path) -> None:
    name, later = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    keeper = PolicyKeeper(tmp_path)
    keeper.offer(PoliciesInForce({name: read_text(DENY, name)}), {})
    keeper.start()
    eventually((tmp_path / FILE).exists)
    keeper.offer(PoliciesInForce({later: read_text(DENY, later)}), {})
    keeper.stop()
    assert set(PolicyKeeper(tmp_path).kept.files) == {later}


def test_a_restart_with_the_keeper(tmp_path: Path) -> None:
    name = str(tmp_path / "a.yaml")
    objects = tuple(decoded("networkpolicies", network_policy("shop/shut", ingress=[])))
    in_force = PoliciesInForce(
        {name: read_text(DENY, name)}, (), {"networkpolicies": objects, "ingresses": ()}
    )
    keeper = PolicyKeeper(tmp_path)
    assert keeper.kept == KeptPolicies()
    keeper.start()
    contact = {"networkpolicies": time.time() - 60.0, "ingresses": time.time()}
    keeper.offer(in_force, contact)
    eventually((tmp_path / FILE).exists)
    keeper.stop()
    again = PolicyKeeper(tmp_path).kept
    assert again.files[name].parsed == in_force.files[name]
    assert again.resources["networkpolicies"] == KeptResource(
        contact["networkpolicies"], in_force.resources["networkpolicies"]
    )
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) & 0o037 == 0
    note = kept_note(("networkpolicies",), again, time.time())
    assert note == "in force are the policies of 1 min ago (networkpolicies)"
    assert kept_note((), again, time.time()) == ""


def test_what_is_broken_keeps_its_age() -> None:
    shut, objects = read_text(DENY, "a"), tuple(decoded("ingresses", ingress("shop/web")))
    before = KeptPolicies(
        {"a": KeptFile(NOW - 100, shut), "b": KeptFile(NOW - 100, shut)},
        {"ingresses": KeptResource(NOW - 50, objects)},
    )
    in_force = PoliciesInForce({"a": shut, "b": shut, "new": shut}, ("a", "new"), {})
    found = merged(before, in_force, {"ingresses": NOW}, NOW)
    assert {name: each.good for name, each in found.files.items()} == {"a": NOW - 100, "b": NOW}
    assert found.resources == before.resources
    old = KeptPolicies({"a": KeptFile(NOW, shut)}, {"ingresses": KeptResource(NOW - 1, objects)})
    assert old.recent(NOW + MAX_AGE_SECONDS) == KeptPolicies({"a": KeptFile(NOW, shut)}, {})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-7],
        lambda data: b"",
        lambda data: b"\xff" + data,
        lambda data: data.replace(b"shut", b"open"),
    ],
)
def test_a_damaged_file_is_not_used(
    tmp_path: Path, spoil: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    kept = KeptPolicies({"a": KeptFile(time.time(), read_text(DENY, "a"))})
    (tmp_path / FILE).write_bytes(spoil(encode(kept)))
    assert PolicyKeeper(tmp_path).kept == KeptPolicies()
    assert "cannot read the kept policies" in caplog.text


def test_a_file_of_another_release_is_not_used() -> None:
    kept = KeptPolicies({"a": KeptFile(NOW, read_text(DENY, "a"))})
    for name in ("good", "Policy"):
        body = encode(kept).partition(b"\n")[2].replace(f'"{name}"'.encode(), b'"newer"')
        assert json.loads(body)
        with pytest.raises(ValueError, match="another release"):
            decode(_with_head(body))


def _with_head(body: bytes) -> bytes:
    return b"podtally policies %08x\n" % zlib.crc32(body) + body


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    kept = KeptPolicies({"a": KeptFile(time.time(), read_text(DENY, "a"))})
    (tmp_path / "elsewhere").write_bytes(encode(kept))
    os.symlink(tmp_path / "elsewhere", tmp_path / FILE)
    assert PolicyKeeper(tmp_path).kept == KeptPolicies()
