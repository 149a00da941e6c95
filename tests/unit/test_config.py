"""Configuration: what the file and the flags may say, and what is said of what they may not."""

from pathlib import Path

import pytest

from podtally import config
from podtally.config import Config, StaticEndpoint, load
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
series_limit: 23
series_grace: 0
endpoints:
  - {netns: web, namespace: shop, name: web-0, workload: web, labels: {app: web}}
  - {interface: veth9, name: db-0}
  - {address: "2001:DB8:0::9", name: edge}
networks:
  office: 203.0.113.0/24
  lab: [198.18.0.0/16, "2001:db8::/48", 198.19.0.1]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "podtally.yaml"


@pytest.fixture(autouse=True)
def _no_file_of_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "none.yaml")


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
    )
    assert load(file, {}).listen_address() == ("::1", 9000)


def test_an_address_is_compared_as_others_write_it() -> None:
    assert StaticEndpoint("edge", address="2001:DB8:0:0::9").address == "2001:db8::9"


def test_flags_override_the_file(file: Path) -> None:
    file.write_text(EVERYTHING)
    flags = {"epoch": 0.5, "state_dir": "/elsewhere", "interfaces": None, "attach": "tcx"}
    loaded = load(file, flags)
    assert (loaded.epoch, loaded.state_dir, loaded.attach) == (0.5, Path("/elsewhere"), "tcx")
    assert loaded.interfaces == "veth*,!veth0"


def test_the_default_file_is_read_if_it_is_there(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("epoch: 5\n")
    monkeypatch.setattr(config, "DEFAULT_FILE", file)
    assert load(None, {}).epoch == 5


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}\n"])
def test_a_file_that_says_nothing(file: Path, text: str) -> None:
    file.write_text(text)
    assert load(file, {}) == Config()


@pytest.mark.parametrize(
    ("what", "text", "words"),
    [
        ("an unknown key", "epochs: 1\n", ["epochs"]),
        ("a key with a hyphen", "max-flows: 5\n", ["max-flows"]),
        ("an unknown key of an endpoint", "endpoints: [{netns: a, name: b, nam: c}]\n", ["nam", "endpoints[0]"]),
        ("a wrong type", "epoch: soon\n", ["epoch", "float", "str"]),
        ("a wrong type in a list", "endpoints: [web]\n", ["endpoints[0]", "str"]),
        ("a label that is no text", "endpoints: [{netns: a, name: b, labels: {c: 5}}]\n", ["labels", "int"]),
        ("no map", "- epoch\n", ["object", "array"]),
        ("an epoch of nothing", "epoch: 0\n", ["epoch", "> 0"]),
        ("an epoch that never ends", "epoch: .inf\n", ["epoch", "3600"]),
        ("an epoch that is no number", "epoch: .nan\n", ["epoch"]),
        ("a grace without end", "series_grace: .inf\n", ["series_grace"]),
        ("too many flows", "max_flows: 99999999\n", ["max_flows", "2097152"]),
        ("no flows", "max_flows: 0\n", ["max_flows", ">= 1"]),
        ("an unknown way to attach", "attach: xdp\n", ["attach", "xdp"]),
        ("no name", "endpoints: [{netns: a}]\n", ["endpoints[0]", "name"]),
        ("no selector", "endpoints: [{name: b}]\n", ["endpoints[0]", "'b'", "one of"]),
        ("two selectors", "endpoints: [{name: b, netns: a, interface: c}]\n", ["endpoints[0]", "'b'", "one of"]),
        ("no address", "endpoints: [{name: b, address: 10.99.0.256}]\n", ["endpoints[0]", "10.99.0.256"]),
        ("no network", "networks: {office: 10.99.0.0/33}\n", ["networks", "office", "10.99.0.0/33"]),
        ("bits behind the network", "networks: {lab: [10.99.0.1/16]}\n", ["networks", "lab", "host bits"]),
        ("a network that is no text", "networks: {lab: 5}\n", ["networks", "int"]),
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
def test_bad_yaml_is_said_with_its_line(file: Path, what: str, text: str, line: int) -> None:
    file.write_text(text)
    with pytest.raises(PodtallyError) as caught:
        load(file, {})
    assert f"{file}:{line}: not YAML" in str(caught.value), what


@pytest.mark.parametrize("content", [b"epoch: \xff\xfe\n", b"epoch: \x00\n", b"\x1f\x8b\x08"])
def test_what_is_no_text(file: Path, content: bytes) -> None:
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
        ({"epoch": 0.0}, ["--epoch", "> 0"]),
        ({"epoch": float("inf")}, ["--epoch"]),
        ({"max_flows": -1}, ["--max-flows", ">= 1"]),
        ({"flow_log_max_bytes": 0}, ["--flow-log-max-bytes"]),
        ({"series_grace": -0.5}, ["--series-grace", ">= 0"]),
    ],
)
def test_flags_have_the_same_bounds(flags: dict[str, float], words: list[str]) -> None:
    with pytest.raises(PodtallyError) as caught:
        config.check_flags(flags)
    for word in words:
        assert word in str(caught.value)
    config.check_flags(dict.fromkeys(flags))


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("0.0.0.0:9775", ("0.0.0.0", 9775)),
        (":9775", ("", 9775)),
        ("[2001:db8::1]:80", ("2001:db8::1", 80)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_listen_addresses(listen: str, address: tuple[str, int]) -> None:
    assert Config(listen=listen).listen_address() == address


@pytest.mark.parametrize("listen", ["", "9775", "a:", "a:b", "a:-1", "a:65536", "a:80 "])
def test_what_is_no_listen_address(listen: str) -> None:
    with pytest.raises(PodtallyError, match="ADDR:PORT"):
        Config(listen=listen).listen_address()


def test_an_optional_setting_is_not_said_to_take_null(tmp_path: Path) -> None:
    path = tmp_path / "podtally.yaml"
    path.write_text("epoch: soon\n")
    with pytest.raises(PodtallyError, match=r"Expected `float`, got `str` - at `\$.epoch`"):
        load(path, {})
