# SPDX-License-Identifier: Apache-2.0
"""Reads policy test cases: a cluster, its policies, probes and expected verdicts.

docs/policy.md describes the format. A broken part affects only itself: an invalid probe carries
its error, and an unreadable policy puts in doubt what it may select.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from podtally.dns.known_names import NAMES_OFF
from podtally.errors import PodtallyError
from podtally.policy.cases.case_names import WrittenNames, read_names
from podtally.policy.cidr import parse_address
from podtally.policy.cluster import manifests
from podtally.policy.cluster.model import FAMILIES, ClusterModel, connection_ends
from podtally.policy.load.conversion import PROTOCOLS
from podtally.policy.load.documents import MAX_BYTES, Document, LineMap
from podtally.policy.load.parser import ParsedPolicies, read_documents
from podtally.policy.load.stand_ins import all_unreadable
from podtally.policy.model import (
    ALLOWED,
    DENIED,
    LAST_PORT,
    UNDECLARED,
    VERDICTS,
    Policy,
    PolicyEndpoint,
    Question,
)
from podtally.policy.problems import Fault, Problem, field_of
from podtally.policy.schema.decoding import convert
from podtally.yamltree.scalars import brief
from podtally.yamltree.tree import TreeBudget, TreeError, json_values, yaml_trees

# The verdicts that an expectation accepts; no word accepts all.
EXPECTED_VERDICTS: dict[str, tuple[str, ...]] = {
    "allow": (ALLOWED, UNDECLARED),
    "deny": (DENIED,),
    "": VERDICTS,
    **{verdict: (verdict,) for verdict in VERDICTS},
}
# The cells of a matrix: the expected verdict, of ingress and of egress.
_CELLS = {
    ".": ("allow", "allow", "allow"),
    "i": ("deny", "deny", "allow"),
    "e": ("deny", "allow", "deny"),
    "b": ("deny", "deny", "deny"),
    "X": ("deny", "", ""),
    "o": ("allow", "", ""),
}
_NOT_CHECKED = "-"
_NO_DNS = WrittenNames((), NAMES_OFF)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Probe(NamedTuple):
    """A question and the expected verdicts; ``wrong`` is the error in either."""

    question: Question | None  # None: invalid
    wrong: str
    expect: str
    expect_ingress: str
    expect_egress: str
    expect_strict: str = ""  # where the TTLs of DNS answers are enforced


class Case(NamedTuple):
    name: str
    policies: tuple[Policy, ...]
    probes: tuple[Probe, ...]


class CaseFile(NamedTuple):
    cases: tuple[Case, ...]
    problems: tuple[Problem, ...]  # of everything but policies
    policy_problems: tuple[Problem, ...]


class _WireEnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pod: str | None = None
    ip: str | None = None
    name: str | None = None  # of a destination: its first address


class _WireProbe(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    from_: _WireEnd
    to: _WireEnd
    port: int
    protocol: str = "TCP"
    family: str | None = None
    service: bool = False
    expect: str | None = None
    expect_ingress: str | None = None
    expect_egress: str | None = None
    expect_strict: str | None = None


class _WireMatrix(msgspec.Struct, frozen=True):
    endpoints: tuple[str, ...]
    rows: tuple[str, ...]
    port: int
    protocol: str = "TCP"
    family: str | None = None


def read_cases(text: bytes, source: str) -> CaseFile:
    """Read JSON or YAML: an object with ``cases``, a list of cases, or one case; PodtallyError."""
    written = _cases(parse_text(text, source), source)
    cases: list[Case] = []
    problems: list[Problem] = []
    policy_problems: list[Problem] = []
    for index, content in enumerate(written):
        if isinstance(content, dict):
            reader = _CaseReader(content, source, index)
            cases.append(reader.case())
            problems += reader.problems
            policy_problems += reader.policy_problems
        else:
            problems.append(Problem(source, 0, f"case {index}", "", "is not an object; remove it"))
    return CaseFile(tuple(cases), tuple(problems), tuple(policy_problems))


def parse_text(text: bytes, source: str) -> Any:
    """Return the value of a JSON or YAML text; PodtallyError."""
    if len(text) > MAX_BYTES:
        raise PodtallyError(f"{source}: more than {MAX_BYTES >> 20} MiB", "split it")
    try:
        plain = text.decode("utf-8-sig")
        if plain.lstrip()[:1] in ("{", "["):
            values = list(json_values(plain))
            if _SURROGATE.search(plain):
                json.dumps(values, ensure_ascii=False).encode()
        else:
            values = [node.value for node in yaml_trees(plain, TreeBudget())]
    except UnicodeDecodeError:
        raise PodtallyError(f"{source}: not UTF-8", "save it as UTF-8") from None
    except UnicodeEncodeError:
        raise PodtallyError(f"{source}: unpaired surrogate", "write the character") from None
    except TreeError as error:
        where = f"{source}:{error.line}" if error.line else source
        raise PodtallyError(f"{where}: {error.message}") from None
    if not values:
        raise PodtallyError(f"{source}: is empty", "name another file")
    return values[0] if len(values) == 1 else values


def _cases(value: Any, source: str) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and value.get("format", 1) == 1:
        cases = value.get("cases")
        if isinstance(cases, list) and value.get("kind") is None:
            return cases
        if "probes" in value or "matrices" in value:
            return [value]
    raise PodtallyError(
        f"{source}: not a policy test", "use an object with cases, or one case with probes"
    )


class _CaseReader:
    """Reads one case, once."""

    def __init__(self, content: Mapping[str, Any], source: str, index: int) -> None:
        self.problems: list[Problem] = []
        self.policy_problems: list[Problem] = []
        given = content.get("id")
        self._name = given if isinstance(given, str) and given else f"case {index}"
        self._content = content
        self._source = source
        self._model = ClusterModel((), (), ())
        self._names = _NO_DNS

    def case(self) -> Case:
        found = manifests.from_case(self._content, self._source, self._name)
        self.problems += found.problems
        self._model = found.model
        self._names = self._read_names()
        policies = tuple(self._policies())
        probes = [self._probe(item, index) for index, item in self._items("probes")]
        for index, item in self._items("matrices"):
            probes += self._matrix(item, index)
        return Case(self._name, policies, tuple(probes))

    def _policies(self) -> Iterator[Policy]:
        for index, content in self._items("policies"):
            reading = _policy(content, f"{self._source}: {self._name}: policies[{index}]")
            self.policy_problems += reading.problems
            yield from reading.policies

    def _probe(self, item: Any, index: int) -> Probe:
        wire = convert(item, _WireProbe)
        if isinstance(wire, Fault):
            return self._wrong(("probes", index, *wire.path), wire.message)
        question = self._question(wire)
        wanted = (
            wire.expect or "",
            wire.expect_ingress or "",
            wire.expect_egress or "",
            wire.expect_strict or "",
        )
        if isinstance(question, str):
            return self._wrong(("probes", index), question, wanted)
        odd = [word for word in wanted if word not in EXPECTED_VERDICTS]
        if odd:
            message = f"unknown expectation {brief(odd[0])}: use allow or deny"
            return self._wrong(("probes", index), message, wanted)._replace(question=question)
        return Probe(question, "", *wanted)

    def _matrix(self, item: Any, index: int) -> Iterator[Probe]:
        wire = convert(item, _WireMatrix)
        path = ("matrices", index)
        if isinstance(wire, Fault):
            yield self._wrong((*path, *wire.path), wire.message)
            return
        count = len(wire.endpoints)
        if len(wire.rows) != count or any(len(row) != count for row in wire.rows):
            yield self._wrong(path, f"must have {count} rows of {count} cells, one per endpoint")
            return
        endpoints = [self._endpoint(_end(text), None) for text in wire.endpoints]
        for source, row in zip(endpoints, wire.rows, strict=True):
            for destination, cell in zip(endpoints, row, strict=True):
                if cell != _NOT_CHECKED:
                    yield self._cell(wire, source, destination, cell)

    def _cell(
        self,
        wire: _WireMatrix,
        source: PolicyEndpoint | str,
        destination: PolicyEndpoint | str,
        cell: str,
    ) -> Probe:
        wanted = _CELLS.get(cell)
        if wanted is None:
            return self._wrong(("matrices",), f"unknown matrix cell {brief(cell)}")
        question = self._with_names(_make_question(source, destination, wire))
        if isinstance(question, str):
            return self._wrong(("matrices",), question, wanted)
        return Probe(question, "", *wanted)

    def _question(self, wire: _WireProbe) -> Question | str:
        source = self._endpoint(wire.from_, None)
        return self._with_names(_make_question(source, self._endpoint(wire.to, source), wire))

    def _with_names(self, question: Question | str) -> Question | str:
        if isinstance(question, str):
            return question
        names = self._names.known(question.source, question.destination_ip)
        return question._replace(names=names)

    def _read_names(self) -> WrittenNames:
        """Without the field nothing is known of DNS."""
        if "names" not in self._content:
            return _NO_DNS
        given = [item for _, item in self._items("names")]
        names, faults = read_names(given, self._content.get("names_complete") is not False)
        for fault in faults:
            self._wrong(fault.path, fault.message)
        return names

    def _endpoint(self, end: _WireEnd, source: PolicyEndpoint | str | None) -> PolicyEndpoint | str:
        """Return the endpoint, or the error; ``source``: of the probe with this destination."""
        if sum(field is not None for field in (end.pod, end.ip, end.name)) != 1:
            return "an endpoint must have one of pod, ip and name"
        if end.name is not None:
            return self._named(end.name, source)
        if end.pod is not None:
            namespace, _, name = end.pod.partition("/")
            return self._model.pod(namespace, name) or f"the case has no pod {brief(end.pod)}"
        address = parse_address(end.ip or "")
        if address is None:
            return f"invalid address {brief(end.ip or '')}"
        return self._model.at(address)._replace(ips=(address,))

    def _named(self, name: str, source: PolicyEndpoint | str | None) -> PolicyEndpoint | str:
        if not isinstance(source, PolicyEndpoint):
            return "only a destination can be a name"
        found = self._names.addresses(source, name)
        if not found:
            return f"names has no address of {brief(name)} for this pod"
        return self._model.at(found[0])._replace(ips=found[:1])

    def _items(self, name: str) -> Iterable[tuple[int, Any]]:
        given = self._content.get(name)
        if given is None or isinstance(given, list):
            return enumerate(given or ())
        self.problems.append(Problem(self._source, 0, self._name, name, "must be a list"))
        return ()

    def _wrong(
        self, path: tuple[str | int, ...], why: str, wanted: tuple[str, ...] = ("", "", "")
    ) -> Probe:
        problem = Problem(self._source, 0, self._name, field_of(path), why)
        if not self.problems or self.problems[-1] != problem:
            self.problems.append(problem)
        return Probe(None, why, *wanted)


def _end(text: str) -> _WireEnd:
    """Parse an endpoint of a matrix: ``ns/pod`` or ``ip:address``."""
    if text.startswith("ip:"):
        return _WireEnd(ip=text.removeprefix("ip:"))
    return _WireEnd(pod=text)


def _make_question(
    source: PolicyEndpoint | str, destination: PolicyEndpoint | str, wire: _WireProbe | _WireMatrix
) -> Question | str:
    for end in (source, destination):
        if isinstance(end, str):
            return end
    if wire.protocol not in PROTOCOLS:
        return f"unsupported protocol {brief(wire.protocol)}: use one of {', '.join(PROTOCOLS)}"
    if not 0 <= wire.port <= LAST_PORT:
        return f"a port must be between 0 and {LAST_PORT}"
    if wire.family is not None and wire.family not in FAMILIES:
        return f"unsupported family {brief(wire.family)}: use one of {', '.join(FAMILIES)}"
    assert isinstance(source, PolicyEndpoint)
    assert isinstance(destination, PolicyEndpoint)
    chosen = connection_ends(source, destination, wire.family or "")
    question = chosen.question(PROTOCOLS[wire.protocol], wire.port)
    return question._replace(by_service=isinstance(wire, _WireProbe) and wire.service)


def _policy(content: Any, where: str) -> ParsedPolicies:
    """Parse a policy; anything else may be a policy that selects every endpoint."""
    if isinstance(content, dict):
        api_version, kind = content.get("apiVersion"), content.get("kind")
        words = [word if isinstance(word, str) else "" for word in (api_version, kind)]
        reading = read_documents([Document(where, words[0], words[1], content, LineMap(None))])
        if not reading.others:
            return reading
        message = f"unsupported kind {brief(words[1])}: use a policy"
    else:
        message = "is not an object: use a policy"
    problem = Problem(where, 0, "", "", message)
    return ParsedPolicies(policies=all_unreadable(problem, False), problems=(problem,))
