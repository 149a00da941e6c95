# SPDX-License-Identifier: Apache-2.0
"""A real agent behind TLS and a password: commands and a real Prometheus ask it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.apiserver.certificates import Authority, Pair
from tests.e2e.agents import Agent, environment, parse, value
from tests.e2e.conftest import MakeAgent, free_port
from tests.e2e.prometheus import prometheus
from tests.e2e.web_fixtures import Written, authority, pair, written
from tests.e2e.web_support import (
    CLIENT_HELLO,
    NAMES,
    PASSWORD,
    USER,
    Client,
    idlers,
    tls,
    users,
)
from tests.podtally_command import podtally
from tests.pressure import Stopwatch

__all__ = ["authority", "pair", "written"]


def run(agent: Agent, *arguments: str, **variables: str) -> tuple[int, str, str]:
    listen = ("--listen", f"127.0.0.1:{agent.places.port}")
    return podtally(*arguments, *listen, variables=environment() | variables, seconds=30)


def ready(client: Client, agent: Agent) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            if client.get("/readyz", None).status == 200:
                return
        except OSError:  # not there yet
            pass
        assert time.monotonic() < end, agent.said()
        time.sleep(0.05)


@pytest.mark.usefixtures("three_pods")
def test_an_agent_behind_tls_and_a_password(
    make_agent: MakeAgent, written: Written, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    web = written(tls(pair) + users())
    agent = make_agent("--web-config-file", str(web))
    agent.start()
    client = Client(agent.places.port, authority)
    try:
        ready(client, agent)
        assert f"; https://127.0.0.1:{agent.places.port}/metrics" in agent.said()
        assert client.get("/metrics", None).status == 401
        _asked_by_commands(agent, authority, web, tmp_path)
        _undisturbed(agent, client)
    finally:
        agent.end()
        agent.detach()


def _asked_by_commands(agent: Agent, authority: Authority, web: Path, tmp_path: Path) -> None:
    config = tmp_path / "podtally.yaml"
    config.write_text(f"web_config_file: {web}\n")
    here = ("--config", str(config))
    password = {"PODTALLY_BASIC_AUTH": f"{USER}:{PASSWORD}"}
    assert run(agent, "health") == (0, "ok\n", "")
    assert run(agent, "health", *here) == (0, "ok\n", "")
    code, out, err = run(agent, "endpoints", *here, **password)
    assert (code, err) == (0, "")
    assert "ptl-" in out
    file = tmp_path / "password"
    file.write_text(f"{USER}:{PASSWORD}\n")
    by_file = {
        "PODTALLY_BASIC_AUTH_FILE": str(file),
        "PODTALLY_CA_FILE": str(authority.own.certificate),
    }
    assert run(agent, "endpoints", **by_file)[0] == 0
    other = tmp_path / "other.yml"
    other.write_text(tls(authority.issue("other-agent", NAMES)))
    config_of_other = tmp_path / "other.yaml"
    config_of_other.write_text(f"web_config_file: {other}\n")
    stranger = Authority(tmp_path / "strangers", "strangers-ca").own.certificate
    for arguments, variables, result in (
        (here, {}, "requires a user and a password"),
        (here, {"PODTALLY_BASIC_AUTH": f"{USER}:wrong"}, "wrong user or password"),
        (here, {"PODTALLY_BASIC_AUTH": USER}, "no password"),
        ((), password, "requires TLS"),
        (("--config", str(config_of_other)), password, "is not the one of the web configuration"),
        ((), password | {"PODTALLY_CA_FILE": str(stranger)}, "TLS with"),
        ((), password | {"PODTALLY_CA_FILE": str(file)}, "cannot be used"),
        ((), {"PODTALLY_BASIC_AUTH_FILE": "/nowhere"}, "cannot read /nowhere"),
    ):
        code, out, err = run(agent, "endpoints", *arguments, **variables)
        assert (code, out) == (2, ""), result
        assert result in err
        assert PASSWORD not in err
        assert err.count("\n") == 1


def _undisturbed(agent: Agent, client: Client) -> None:
    """Epochs of 0.1 s go on under 200 half handshakes and guesses."""

    def epochs() -> float:
        samples = parse(client.get("/metrics").body)
        return value(samples, "podtally_epoch_duration_seconds_count")

    with idlers(agent.places.port, 200, CLIENT_HELLO):
        before, started, watch = epochs(), time.monotonic(), Stopwatch()
        while time.monotonic() - started < 2:
            client.get("/metrics", os.urandom(8).hex())
        turned, took = epochs() - before, watch.unhindered()
    assert turned > 5 * took, (turned, took, agent.said())


@pytest.mark.usefixtures("node")
def test_a_configuration_that_cannot_be_used_leaves_no_trace(
    make_agent: MakeAgent, written: Written, pair: Pair, tmp_path: Path
) -> None:
    web = written(tls(pair, min_version="TLS10"))
    agent = make_agent("--web-config-file", str(web))
    agent.start()
    assert agent.process is not None
    assert agent.process.wait(timeout=30) == 2
    assert f"{web}:4: tls_server_config.min_version: TLS10 is insecure" in agent.said()
    assert not agent.places.pin_dir.exists()
    config = tmp_path / "podtally.yaml"
    config.write_text(f"web_config_file: {web}\n")
    done = subprocess.run(
        [sys.executable, "-m", "podtally", "config", "check", str(config)],
        capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    assert done.returncode == 2
    assert "TLS10 is insecure" in done.stderr


@pytest.mark.usefixtures("three_pods")
def test_prometheus_scrapes_by_tls_with_a_password(
    make_agent: MakeAgent,
    written: Written,
    authority: Authority,
    pair: Pair,
    tmp_path: Path,
) -> None:
    agent = make_agent("--web-config-file", str(written(tls(pair) + users(cost=10))))
    agent.start()
    port = agent.places.port
    try:
        ready(Client(port, authority), agent)
        password = tmp_path / "password"
        password.write_text(PASSWORD)

        def job(name: str, file: Path, ca: Path) -> dict[str, object]:
            return {
                "job_name": name,
                "scheme": "https",
                "tls_config": {"ca_file": str(ca)},
                "basic_auth": {"username": USER, "password_file": str(file)},
                "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
            }

        wrong = tmp_path / "wrong"
        wrong.write_text("wrong")
        stranger = Authority(tmp_path / "strangers", "strangers-ca").own.certificate
        ca = authority.own.certificate
        jobs = [job("good", password, ca), job("wrong", wrong, ca), job("ca", password, stranger)]
        with prometheus(tmp_path, free_port(), jobs) as server:
            end = time.monotonic() + 30
            wanted = {"good": 1.0, "wrong": 0.0, "ca": 0.0}
            while True:
                now = time.time()
                up = {each.labels["job"]: each.values[0] for each in server.instant("up", now)}
                if up == wanted and server.instant('podtally_build_info{job="good"}', now):
                    break
                assert time.monotonic() < end, (up, agent.said())
                time.sleep(0.2)
    finally:
        agent.end()
        agent.detach()
