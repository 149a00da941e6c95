# SPDX-License-Identifier: Apache-2.0
"""Configuration: the file, the flags, and the errors that name what is wrong in them."""

import argparse
from pathlib import Path

import pytest

from podtally import config
from podtally.commands import run
from podtally.config import Config, StaticEndpoint, load, loader
from podtally.errors import PodtallyError

EVERYTHING = """\
listen: "[::1]:9000"
state_dir: /var/lib/podtally
pin_dir: /sys/fs/bpf/other
interfaces: "veth*,!veth0"
epoch: 0.1
max_flows: 1009
attach: clsact
flow_log: /var/log/podtally/flows.jsonl
flow_log_max_bytes: 1000
policies: [/etc/podtally/policies, extra.yaml]
candidates: next.yaml
events: "-"
events_max_bytes: 2000
events_rate: 5
events_interval: 0.5
events_verdicts: [denied]
series_limit: 23
series_grace: 0
endpoints:
  - {netns: web, namespace: shop, name: web-0, workload: web, labels: {app: web}}
  - {interface: veth9, name: db-0}
  - {address: "2001:DB8:0::9", name: edge}
networks:
  office: 203.0.113.0/24
  lab: [198.18.0.0/16, "2001:db8::/48", 198.19.0.1]
forwarders: [kube-system/egress-*, shop/vpn]
"""


def test_defaults_are_the_contracts() -> None:
    defaults = load(None, {})
    assert defaults == Config()
    assert (str(defaults.state_dir), str(defaults.pin_dir)) == (
        "/run/podtally",
        "/sys/fs/bpf/podtally",
    )
    assert (defaults.listen, defaults.epoch, defaults.max_flows) == ("127.0.0.1:9775", 1, 65536)
    assert (defaults.interfaces, defaults.flow_log, defaults.series_limit) == (None, None, 10_000)
    assert defaults.listen_address() == ("127.0.0.1", 9775)
    assert (defaults.policies, defaults.candidates, defaults.events) == ((), (), None)
    assert (defaults.events_rate, defaults.events_interval) == (50, 60)
    assert defaults.events_verdicts == ("denied", "undeclared")
    assert defaults.events_max_bytes == defaults.flow_log_max_bytes == 64 << 20


def test_every_setting_can_stand_in_the_file(file: Path) -> None:
    file.write_text(EVERYTHING)
    assert load(file, {}) == Config(
        listen="[::1]:9000",
        state_dir=Path("/var/lib/podtally"),
        pin_dir=Path("/sys/fs/bpf/other"),
        interfaces="veth*,!veth0",
        epoch=0.1,
        max_flows=1009,
        attach="clsact",
        flow_log=Path("/var/log/podtally/flows.jsonl"),
        flow_log_max_bytes=1000,
        policies=(Path("/etc/podtally/policies"), Path("extra.yaml")),
        candidates=(Path("next.yaml"),),
        events="-",
        events_max_bytes=2000,
        events_rate=5,
        events_interval=0.5,
        events_verdicts=("denied",),
        series_limit=23,
        series_grace=0,
        endpoints=(
            StaticEndpoint("web-0", "shop", "web", labels={"app": "web"}, netns="web"),
            StaticEndpoint("db-0", interface="veth9"),
            StaticEndpoint("edge", address="2001:db8::9"),
        ),
        networks={
            "office": ("203.0.113.0/24",),
            "lab": ("198.18.0.0/16", "2001:db8::/48", "198.19.0.1"),
        },
        forwarders=("kube-system/egress-*", "shop/vpn"),
    )
    assert load(file, {}).listen_address() == ("::1", 9000)


def test_an_address_is_compared_as_others_write_it() -> None:
    assert StaticEndpoint("edge", address="2001:DB8:0:0::9").address == "2001:db8::9"


def test_flags_override_the_file(file: Path) -> None:
    file.write_text(EVERYTHING)
    flags = {"epoch": "500ms", "state_dir": "/elsewhere", "interfaces": None, "attach": "tcx"}
    loaded = load(file, flags)
    assert (loaded.epoch, loaded.state_dir, loaded.attach) == (0.5, Path("/elsewhere"), "tcx")
    assert loaded.interfaces == "veth*,!veth0"


def test_paths_of_flags_stand_in_place_of_those_of_the_file(file: Path) -> None:
    file.write_text(EVERYTHING)
    loaded = load(file, {"policies": ["a", "b"], "candidates": None, "events": "events.jsonl"})
    assert loaded.policies == (Path("a"), Path("b"))
    assert loaded.candidates == (Path("next.yaml"),)
    assert loaded.events == "events.jsonl"


def test_flags_of_policy_and_events() -> None:
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    words = "--policies a --policies b --candidate c --candidate d --events - --events-rate 7"
    words += " --events-interval 9 --events-max-bytes 11 --events-verdicts undeclared,denied"
    result = config.from_arguments(parser.parse_args(words.split()))
    assert (result.policies, result.candidates) == ((Path("a"), Path("b")), (Path("c"), Path("d")))
    assert (result.events, result.events_rate, result.events_interval) == ("-", 7, 9)
    assert (result.events_max_bytes, result.events_verdicts) == (11, ("denied", "undeclared"))


@pytest.mark.parametrize(
    ("given", "verdicts"),
    [
        ("denied", ("denied",)),
        (" undeclared , denied,denied", ("denied", "undeclared")),
        (["undeclared"], ("undeclared",)),
    ],
)
def test_verdicts_of_events(given: str | list[str], verdicts: tuple[str, ...]) -> None:
    assert load(None, {"events_verdicts": given}).events_verdicts == verdicts


def test_two_logs_do_not_share_a_file() -> None:
    with pytest.raises(PodtallyError, match="flow_log and events are both a/b; use two"):
        load(None, {"flow_log": "./a/b", "events": "a/b"})
    assert load(None, {"flow_log": "a/b", "events": "b"}).events == "b"


@pytest.mark.parametrize("spelling", ["symlink", "folder", "hard link", "relative", "dots"])
@pytest.mark.parametrize("turned", [False, True])
def test_one_file_for_both_logs_is_refused_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str, turned: bool
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    one, other = logs / "flows", tmp_path / "other"
    match spelling:
        case "symlink":
            other.symlink_to(one)  # which does not exist yet
        case "folder":
            other.symlink_to(logs)
            other = other / "flows"
        case "hard link":
            one.write_text("")
            other.hardlink_to(one)
        case "relative":
            monkeypatch.chdir(logs)
            other = Path("flows")
        case "dots":
            other = logs / ".." / "logs" / "flows"
    named = [str(one), str(other)]
    flow_log, events = reversed(named) if turned else named
    with pytest.raises(PodtallyError, match="are both"):
        load(None, {"flow_log": flow_log, "events": events})


def test_two_files_are_two(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for make in (lambda: None, lambda: (one.write_text(""), other.write_text(""))):
        make()
        assert load(None, {"flow_log": str(one), "events": str(other)}).events == str(other)


@pytest.mark.parametrize("turned", [False, True])
def test_no_log_is_where_the_other_is_rolled_to(tmp_path: Path, turned: bool) -> None:
    named = [str(tmp_path / "log"), str(tmp_path / "log.1")]
    flow_log, events = reversed(named) if turned else named
    with pytest.raises(PodtallyError, match=r"log\.1 is the rotated file of .*/log"):
        load(None, {"flow_log": flow_log, "events": events})


def test_standard_output_is_for_one_log() -> None:
    with pytest.raises(PodtallyError, match="are both -"):
        load(None, {"flow_log": "-", "events": "-"})
    assert load(None, {"flow_log": "-", "events": "b"}).flow_log == Path("-")
    assert load(None, {"flow_log": "b", "events": "-"}).events == "-"


def test_the_default_file_is_read_if_it_is_there(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("epoch: 5\n")
    monkeypatch.setattr(loader, "DEFAULT_FILE", file)
    assert load(None, {}).epoch == 5


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}\n"])
def test_a_file_that_says_nothing(file: Path, text: str) -> None:
    file.write_text(text)
    assert load(file, {}) == Config()


@pytest.mark.parametrize(
    ("what", "text", "words"),
    [
        ("an unknown key", "epochs: 1\n", [":1: unknown setting 'epochs'; did you mean \"epoch\"?"]),
        ("a key with a hyphen", "max-flows: 5\n", ["max-flows"]),
        ("an unknown key of an endpoint", "endpoints: [{netns: a, name: b, nam: c}]\n", ["nam", "endpoints[0]"]),
        ("a wrong type", "epoch: soon\n", ["epoch: 'soon' is not a duration like 0.5, 30s or 1m30s"]),
        ("a wrong type in a list", "endpoints: [web]\n", ["endpoints[0]: must be an object, not text"]),
        ("a label that is no text", "endpoints: [{netns: a, name: b, labels: {c: 5}}]\n", ["labels", "not a whole number"]),
        ("no map", "- epoch\n", ["must be a mapping of settings"]),
        ("an epoch of nothing", "epoch: 0\n", ["epoch", "above 0s"]),
        ("an epoch that never ends", "epoch: .inf\n", [":1: .inf is not a JSON number"]),
        ("an epoch that is no number", "epoch: .nan\n", [":1: .nan is not a JSON number"]),
        ("a grace without end", "series_grace: .inf\n", [":1: .inf is not a JSON number"]),
        ("too many flows", "max_flows: 99999999\n", ["max_flows", "2097152"]),
        ("no flows", "max_flows: 0\n", ["max_flows", "at least 1"]),
        ("an unknown way to attach", "attach: xdp\n", ["attach", "'xdp'", "auto, tcx, clsact"]),
        ("no name", "endpoints: [{netns: a}]\n", ["endpoints[0]", "name"]),
        ("no selector", "endpoints: [{name: b}]\n", ["endpoints[0]", "'b'", "one of"]),
        ("two selectors", "endpoints: [{name: b, netns: a, interface: c}]\n", ["endpoints[0]", "'b'", "one of"]),
        ("no address", "endpoints: [{name: b, address: 10.99.0.256}]\n", ["endpoints[0]", "10.99.0.256"]),
        ("no network", "networks: {office: 10.99.0.0/33}\n", ["networks", "office", "10.99.0.0/33"]),
        ("bits behind the network", "networks: {lab: [10.99.0.1/16]}\n", ["networks", "lab", "host bits"]),
        ("a network that is no text", "networks: {lab: 5}\n", ["networks.lab", "not a number"]),
        ("a forwarder without a namespace", "forwarders: vpn\n", ["forwarders", "'vpn'", "NAMESPACE/WORKLOAD"]),
        ("a policy that is no path", "policies: [a, 5]\n", ["policies[1]", "not a number"]),
        ("a policy without a path", "policies: ['']\n", ["policies", "is empty"]),
        ("a candidate without a path", "candidates: ''\n", ["candidates", "is empty"]),
        ("events without a path", "events: ''\n", ["events", "is empty"]),
        ("no line a second", "events_rate: 0\n", ["events_rate", "at least 1"]),
        ("an interval too long", "events_interval: 2h\n", ["events_interval", "at most 1h"]),
        ("a verdict that is none", "events_verdicts: [denied, forbidden]\n", ["events_verdicts", "'forbidden'", "denied, undeclared"]),
        ("a verdict of which there are no events", "events_verdicts: allowed\n", ["events_verdicts", "'allowed'"]),
        ("no verdict", "events_verdicts: []\n", ["events_verdicts", "is empty"]),
        ("a port too high", "listen: 127.0.0.1:65536\n", ["listen", "127.0.0.1:65536"]),
        ("no port", "listen: localhost\n", ["listen", "ADDR:PORT"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_the_file(
    file: Path, what: str, text: str, words: list[str]
) -> None:
    file.write_text(text)
    with pytest.raises(PodtallyError) as caught:
        load(file, {})
    for word in (str(file), *words):
        assert word in str(caught.value), what
    assert "\n" not in str(caught.value), what


@pytest.mark.parametrize(
    ("what", "text", "line"),
    [
        ("a bracket", "epoch: 1\nendpoints: [\n", 3),
        ("a tab", "epoch: 1\n\tmax_flows: 5\n", 2),
        ("a colon too many", "epoch: 1\nlisten: a: b\n", 2),
    ],
)
def test_bad_yaml_is_reported_with_its_line(file: Path, what: str, text: str, line: int) -> None:
    file.write_text(text)
    with pytest.raises(PodtallyError) as caught:
        load(file, {})
    assert f"{file}:{line}: not YAML" in str(caught.value), what


def test_nesting_without_end_is_an_error_whatever_the_parser_says(file: Path) -> None:
    for text in ("[" * 100_000, "- " * 100_000, "epoch: " + "[" * 900 + "]" * 900):
        file.write_text(text)
        with pytest.raises(PodtallyError, match=f"{file}.*: (not YAML|nested deeper)"):
            load(file, {})


@pytest.mark.parametrize("content", [b"epoch: \xff\xfe\n", b"epoch: \x00\n", b"\x1f\x8b\x08"])
def test_what_is_not_text(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(PodtallyError, match="not YAML"):
        load(file, {})


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(PodtallyError, match=rf"cannot read .*{file}: No such file.*--config"):
        load(file, {})


def test_a_file_that_is_a_directory(tmp_path: Path) -> None:
    with pytest.raises(PodtallyError, match=r"cannot read .*directory"):
        load(tmp_path, {})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"epoch": "0"}, ["--epoch", "above 0s"]),
        ({"epoch": "inf"}, ["--epoch"]),
        ({"max_flows": "-1"}, ["--max-flows", "at least 1"]),
        ({"flow_log_max_bytes": "0"}, ["--flow-log-max-bytes"]),
        ({"series_grace": "-0.5"}, ["--series-grace", "at least 0s"]),
        ({"policies": ["a", ""]}, ["--policies:", "is empty"]),
        ({"candidates": [""]}, ["--candidate:", "is empty"]),
        ({"events": ""}, ["--events:", "is empty"]),
        ({"events_rate": "0"}, ["--events-rate", "at least 1"]),
        ({"events_interval": "0s"}, ["--events-interval", "above 0s"]),
        ({"events_verdicts": "denied,"}, ["--events-verdicts", "is empty"]),
    ],
)
def test_flags_have_the_same_bounds(flags: dict[str, object], words: list[str]) -> None:
    with pytest.raises(PodtallyError) as caught:
        load(None, flags)
    for word in words:
        assert word in str(caught.value)
    load(None, dict.fromkeys(flags))


def test_an_optional_setting_does_not_list_null(tmp_path: Path) -> None:
    path = tmp_path / "podtally.yaml"
    path.write_text("epoch: soon\n")
    with pytest.raises(PodtallyError, match=r"yaml:1: epoch: 'soon' is not a duration"):
        load(path, {})
