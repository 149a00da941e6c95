# SPDX-License-Identifier: Apache-2.0
"""Candidates of now, of before, and deletions that are tried; and how the command prints them."""

from pathlib import Path

import pytest

from podtally.config import load
from podtally.config.policy_name import PolicyName, parse_name
from podtally.errors import PodtallyError
from podtally.ledger.checkpoint.checkpoint import Checkpoint, Position
from podtally.ledger.connections.epoch_context import EpochContext
from podtally.ledger.ledger import Ledger
from podtally.ledger.metrics.families import CANDIDATES
from podtally.policy.load.candidates import fingerprint, missing_deletions, with_candidates
from podtally.policy.load.policy_files import PolicyFiles
from podtally.policy.load.policy_sources import DeclaredPolicies, PolicySources
from podtally.runtime.extras import Extras
from tests.unit.api.test_api import ask, serve
from tests.unit.lookup_host import INTO_WEB, Host
from tests.unit.rows import SECOND
from tests.unit.verdict_support import ONLY_MYSQL, declare, epoch, make, out, policies, present

WIDER = ONLY_MYSQL.replace(", except: [203.0.113.10/32]", "")
ONLY = PolicyName("NetworkPolicy", "shop", "only-mysql")


def tried(ledger: Ledger) -> dict[tuple[str, str], int]:
    labels, values = ledger.view().candidate_changes
    return {
        (x.verdict, x.candidate): connections
        for x, (*_, connections) in zip(labels, values.tolist(), strict=True)
    }


def deleting(*texts: str) -> DeclaredPolicies:
    return declare(*texts)._replace(deleted=(ONLY,))


def at(declared: DeclaredPolicies, second: int) -> EpochContext:
    return present(declared, now_ns=second * SECOND)


def restarted(ledger: Ledger, folder: Path) -> Ledger:
    Checkpoint(folder).write(Position("b", "g", 1), ledger.save() | Extras().save())
    read = Checkpoint(folder).read()
    assert read is not None
    again = make()
    again.load(read[1], 9 * SECOND)
    return again


def test_changes_of_earlier_candidates_are_not_shown_and_counters_stay(tmp_path: Path) -> None:
    ledger = make()
    epoch(ledger, at(declare(candidates=[ONLY_MYSQL]), 1), [out("203.0.113.10", 3306)])
    assert tried(ledger) == {("undeclared", "denied"): 1}
    fixed = declare(candidates=[WIDER])
    epoch(ledger, at(fixed, 2), [])
    assert not tried(ledger)
    epoch(ledger, at(fixed, 3), [out("203.0.113.10", 3306, local_port=2)])
    assert tried(ledger) == {("undeclared", "allowed"): 1}
    every = {(x.verdict, x.candidate) for x in ledger.view()[CANDIDATES].labels}
    assert every == {("undeclared", "denied"), ("undeclared", "allowed")}
    # The same candidates after a restart go on; others do not.
    again = restarted(ledger, tmp_path)
    unheard = declare()._replace(unsynced=True)
    epoch(again, at(unheard, 10), [])
    epoch(again, at(fixed, 11), [out("203.0.113.10", 3306, local_port=3)])
    assert tried(again) == {("undeclared", "allowed"): 2}
    epoch(again, at(declare(candidates=[ONLY_MYSQL]), 12), [])
    assert not tried(again)


def test_a_deletion_is_tried() -> None:
    ledger = make()
    epoch(ledger, at(deleting(ONLY_MYSQL), 1), [out("203.0.113.10", 3306)])
    assert tried(ledger) == {("denied", "undeclared"): 1}


def test_with_candidates_is_without_what_is_deleted() -> None:
    (only,) = policies(ONLY_MYSQL)
    assert with_candidates(deleting(ONLY_MYSQL)) == []
    assert missing_deletions(deleting(ONLY_MYSQL)) == []
    assert missing_deletions(deleting()) == [ONLY]
    replaced = deleting(ONLY_MYSQL)._replace(candidates=policies(WIDER, candidate=True))
    assert [policy.candidate for policy in with_candidates(replaced)] == [True]
    assert with_candidates(declare(ONLY_MYSQL)) == [only]


def test_the_fingerprint_is_of_candidates_and_what_they_replace() -> None:
    assert not fingerprint(declare(ONLY_MYSQL))
    one = fingerprint(declare(candidates=[ONLY_MYSQL]))
    assert one == fingerprint(declare(INTO_WEB, candidates=[ONLY_MYSQL]))
    others = [
        fingerprint(each)
        for each in (
            declare(candidates=[WIDER]),
            declare(ONLY_MYSQL, candidates=[ONLY_MYSQL]),
            deleting(),
            deleting(ONLY_MYSQL),
        )
    ]
    assert len({one, *others}) == 5


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NetworkPolicy/shop/web", PolicyName("NetworkPolicy", "shop", "web")),
        ("ClusterNetworkPolicy/no-smtp", PolicyName("ClusterNetworkPolicy", "", "no-smtp")),
        ("HostPolicy/ssh", PolicyName("HostPolicy", "", "ssh")),
        ("NetworkPolicy/web", None),
        ("NetworkPolicy//web", None),
        ("ClusterNetworkPolicy/shop/web", None),
        ("Ingress/shop/web", None),
        ("", None),
    ],
)
def test_names_of_policies(text: str, name: PolicyName | None) -> None:
    assert parse_name(text) == name
    if name is not None:
        assert str(name) == text


def test_deletions_are_a_setting(tmp_path: Path) -> None:
    file = tmp_path / "podtally.yaml"
    file.write_text("candidate_delete: [NetworkPolicy/shop/only-mysql]\n")
    assert load(file, {}).candidate_delete == (ONLY,)
    file.write_text("candidate_delete: shop/only-mysql\n")
    with pytest.raises(
        PodtallyError, match="candidate_delete: invalid policy name 'shop/only-mysql'"
    ):
        load(file, {})


def test_a_stale_candidate_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "next.yaml"
    file.write_text(INTO_WEB)
    sources = PolicySources(candidates=PolicyFiles([file], candidate=True), deleted=[ONLY])
    sources.start()
    try:
        assert not sources.declared().stale_candidates
        assert sources.state().candidates == 2
        file.write_text("spec: [")
        sources.stop()
        sources._reader._load()
        declared = sources.declared()
        assert declared.stale_candidates == (str(file),)
    finally:
        sources.stop()
    host = Host()
    host.declared = declared
    served = serve(host.answers)
    try:
        code, result, err = ask(served, "candidates")
    finally:
        served.server.close()
    assert code == 2
    assert result == (
        "nothing observed would change; candidates: shop/into-web, "
        "without NetworkPolicy/shop/only-mysql\n"
    )
    assert f"{file} is unreadable; its last version is evaluated" in err
    assert "NetworkPolicy/shop/only-mysql: nothing to delete; check the name" in err
