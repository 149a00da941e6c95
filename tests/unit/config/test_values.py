# SPDX-License-Identifier: Apache-2.0
"""Values of settings: addresses, prices, durations, sizes, lists, switches and the history."""

from pathlib import Path

import pytest

from podtally.config import Config, load
from podtally.errors import PodtallyError


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
def test_an_invalid_listen_address(listen: str) -> None:
    with pytest.raises(PodtallyError, match=r"--listen: .*(ADDR:PORT|is empty)"):
        load(None, {"listen": listen})


PRICED = "prices: {egress: {internet: 0.09, cross_zone: 0.01}, ingress: {internet: 0.0001}}\n"


def test_prices(tmp_path: Path) -> None:
    path = tmp_path / "podtally.yaml"
    path.write_text(PRICED + "kubecost_alias: true\nflow_labels: pod\n")
    read = load(path, {})
    assert read.prices.egress == {"internet": 0.09, "cross_zone": 0.01}
    assert read.prices.ingress == {"internet": 0.0001}
    assert (read.kubecost_alias, read.flow_labels) == (True, "pod")
    assert load(path, {"flow_labels": "workload"}).flow_labels == "workload"
    assert Config().prices.egress == Config().prices.ingress == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prices: {egress: {moon: 1}}", ["moon", "prices.egress"]),
        ("prices: {egress: {internet: -0.01}}", [">= 0", "prices.egress"]),
        ("prices: {egress: {internet: 11}}", ["<= 10"]),
        ("prices: {egress: {internet: 0.00005}}", ["internet", "finer than 0.0001"]),
        ("prices: {egress: {internet: .nan}}", ["prices"]),
        ("prices: {egress: {internet: cheap}}", ["must be a number, not text"]),
        ("prices: {outgress: {}}", ["outgress"]),
        ("prices: 0.09", ["prices: must be"]),
        ("flow_labels: container", ["container", "flow_labels", "workload, pod"]),
        ("kubecost_alias: 1", ["must be true or false"]),
    ],
)
def test_an_invalid_price(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "podtally.yaml"
    path.write_text(text + "\n")
    with pytest.raises(PodtallyError) as caught:
        load(path, {})
    for word in [str(path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("1m30s", 90), ("1h", 3600), ("0.25", 0.25), ("2", 2)],
)
def test_durations_as_people_write_them(file: Path, text: str, seconds: float) -> None:
    file.write_text(f"epoch: {text}\n")
    assert load(file, {}).epoch == seconds
    assert load(None, {"epoch": text}).epoch == seconds


@pytest.mark.parametrize(
    "text", ["1 s", "s", "1m 30s", "-1s", "1w", "2h", "1e9", "0s", "'' ", "true"]
)
def test_an_invalid_duration(file: Path, text: str) -> None:
    file.write_text(f"epoch: {text}\n")
    with pytest.raises(PodtallyError, match=rf"{file}:1: epoch: "):
        load(file, {})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *[("1000", 1000), ("64MiB", 64 << 20), ("64 MiB", 64 << 20), ("1G", 10**9), ("2k", 2000)],
        *[("1.5KiB", 1536), ("100B", 100), ("1Ti", 1 << 40)],
    ],
)  # fmt: skip
def test_sizes_as_people_write_them(file: Path, text: str, size: int) -> None:
    file.write_text(f"flow_log_max_bytes: {text}\n")
    assert load(file, {}).flow_log_max_bytes == size
    assert load(None, {"flow_log_max_bytes": text}).flow_log_max_bytes == size


@pytest.mark.parametrize("text", ["64MB1", "many", "-1", "0", "0.1", "true", "[1]", "64mib"])
def test_an_invalid_size(file: Path, text: str) -> None:
    file.write_text(f"flow_log_max_bytes: {text}\n")
    with pytest.raises(PodtallyError, match=rf"{file}:1: flow_log_max_bytes: "):
        load(file, {})


@pytest.mark.parametrize("text", ["a, b", "[a, b]", "\n- a\n- b"])
def test_lists_and_text_with_commas(file: Path, text: str) -> None:
    file.write_text(f"policies: {text}\n")
    assert load(file, {}).policies == (Path("a"), Path("b"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 1\n\nepoch: 2\n", ":3: the key 'epoch' is given twice"),
        ("a: &a [*a]\n", ":1: "),
        ("\n\ninterfases: x\n", ':3: unknown setting \'interfases\'; did you mean "interfaces"?'),
        ("zzz: x\n", "unknown setting 'zzz'; known: listen, "),
        ("endpoints:\n- netns: a\n  name: b\n  nam: c\n", ':2: endpoints[0]: unknown field \'nam\'; did you mean "name"?'),
        ("epoch: 1\n---\nepoch: 2\n", ":3: a second document"),
        ("networks:\n  a: 203.0.113.0/24\n  b: nowhere\n", ":3: networks.b: "),
        ("kubernetes: of\n", "choose from auto, on, off"),
    ],
)  # fmt: skip
def test_errors_have_the_line_and_a_suggestion(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(PodtallyError) as caught:
        load(file, {})
    assert f"{file}{words}" in str(caught.value) or words in str(caught.value)
    assert "msgspec" not in str(caught.value)
    assert "$." not in str(caught.value)


def test_on_and_off_are_words_whatever_yaml_makes_of_them(file: Path) -> None:
    for word in ("on", "off", "auto"):
        file.write_text(f"kubernetes: {word}\n")
        assert load(file, {}).kubernetes == word


def read(folder: Path, text: str) -> Config:
    (folder / "podtally.yaml").write_text(text)
    return load(folder / "podtally.yaml", {})


def test_the_history(tmp_path: Path) -> None:
    text = "history: {path: /data/h.db, max_bytes: 4GiB, min_free_bytes: 0, clickhouse: {url: 'http://db:8123'}}\n"
    history = read(tmp_path, text).history
    assert (history.path, history.max_bytes, history.min_free_bytes) == ("/data/h.db", 4 << 30, 0)
    assert history.clickhouse.database == "podtally"
    assert not read(tmp_path, "history: off\n").history.is_on
    assert not read(tmp_path, "history: {path: off}\n").history.is_on
    assert read(tmp_path, "history: /data/h.db\n").history.file == Path("/data/h.db")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("history: {max_bytes: 1MiB}", ["max_bytes", "at least 4MiB"]),
        ("history: {max_bytes: much}", ["history.max_bytes", "much"]),
        ("history: {pth: /data}", ["pth", "did you mean"]),
        ("history: 23", ["a path, `off` or a mapping"]),
        ("history: {clickhouse: {url: 'tcp://db:9000'}}", ["clickhouse.url", "no URL of HTTP"]),
        ("history: {clickhouse: {url: 'http://u:p@db'}}", ["user", "password_file"]),
    ],
)
def test_a_wrong_history(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(PodtallyError) as caught:
        read(tmp_path, text + "\n")
    for word in words:
        assert word in str(caught.value)
