# SPDX-License-Identifier: Apache-2.0
"""A real ClickHouse server, which can be killed and started again over the same data."""

import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from podtally.config import ClickHouse
from podtally.config.structs import ClickHouseTls
from podtally.history.clickhouse import ClickHouseClient, UncertainError
from tests.apiserver.certificates import Authority

_CONFIG = """\
<yandex>
  <logger><level>error</level><console>1</console></logger>
  <{scheme}_port>{port}</{scheme}_port>
  {tls}
  <listen_host>127.0.0.1</listen_host>
  <path>{root}/data/</path>
  <tmp_path>{root}/tmp/</tmp_path>
  <users_config>users.xml</users_config>
  <default_profile>default</default_profile>
  <default_database>default</default_database>
  <mark_cache_size>67108864</mark_cache_size>
</yandex>
"""
_TLS = """\
<openSSL><server>
    <certificateFile>{pair.certificate}</certificateFile>
    <privateKeyFile>{pair.key}</privateKeyFile>
    <caConfig>{ca}</caConfig>
    <verificationMode>strict</verificationMode>
    <loadDefaultCAFile>false</loadDefaultCAFile>
  </server></openSSL>"""
_USERS = """\
<yandex>
  <profiles><default></default></profiles>
  <users><podtally><password>secret</password><networks><ip>127.0.0.1</ip></networks>
    <profile>default</profile><quota>default</quota></podtally></users>
  <quotas><default></default></quotas>
</yandex>
"""
_READY_SECONDS = 120.0


@dataclass
class ClickHouseServer:
    """``authority``: it speaks TLS, and wants certificates of this one."""

    root: Path
    authority: Authority | None = None
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    _opened: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if shutil.which("clickhouse-server") is None:
            pytest.skip("no clickhouse-server (Debian: clickhouse-server)")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (self.root / "data").mkdir(parents=True)
        (self.root / "tmp").mkdir()
        scheme, tls = "http", ""
        if self.authority is not None:
            pair, scheme = self.authority.issue("server", "IP:127.0.0.1"), "https"
            tls = _TLS.format(pair=pair, ca=self.authority.own.certificate)
        (self.root / "config.xml").write_text(
            _CONFIG.format(port=self.port, root=self.root, scheme=scheme, tls=tls)
        )
        (self.root / "users.xml").write_text(_USERS)
        (self.root / "password").write_text("secret\n")

    @property
    def settings(self) -> ClickHouse:
        url, tls = f"http://127.0.0.1:{self.port}", ClickHouseTls()
        if self.authority is not None:
            url, pair = url.replace("http", "https"), self.authority.issue("agent")
            ca = str(self.authority.own.certificate)
            tls = ClickHouseTls(ca, str(pair.certificate), str(pair.key))
        return ClickHouse(
            url=url, user="podtally", password_file=str(self.root / "password"), tls=tls
        )

    @property
    def client(self) -> ClickHouseClient:
        return ClickHouseClient(self.settings)

    def start(self) -> None:
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "--"),
                    *("clickhouse-server", f"--config-file={self.root / 'config.xml'}"),
                ],
                stdout=log,
                stderr=log,
                cwd=self.root,
                env=os.environ | {"CLICKHOUSE_WATCHDOG_ENABLE": "0"},
            )

    def wait_ready(self) -> None:
        end = time.monotonic() + _READY_SECONDS
        while True:
            assert self.process is not None
            assert self.process.poll() is None, (self.root / "log").read_text()[-2000:]
            try:
                self.client.select("SELECT 1 AS one")
                return
            except UncertainError:
                assert time.monotonic() < end, (self.root / "log").read_text()[-2000:]
                time.sleep(0.05)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
