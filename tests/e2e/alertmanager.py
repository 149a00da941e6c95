# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus that evaluates rules, a real Alertmanager behind it, and a webhook that gets the notifications."""

import json
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.conftest import free_port
from tests.e2e.prometheus import Configuration, Prometheus, running, write

PROGRAMS = ("prometheus", "prometheus-alertmanager")  # and Debian's packages


class Notice(NamedTuple):
    """One alert of a notification; it comes again when its group changes."""

    receiver: str
    status: str  # firing, resolved
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def name(self) -> str:
        return self.labels["alertname"]


class Webhook:
    """Takes what Alertmanager posts, https://prometheus.io/docs/alerting/latest/configuration/#webhook_config"""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def wait_for(self, wanted: Callable[[Notice], bool], seconds: float) -> Notice:
        end = time.monotonic() + seconds
        while True:
            for notice in list(self.notices):
                if wanted(notice):
                    return notice
            assert time.monotonic() < end, f"not notified; of all: {self.notices}"
            time.sleep(0.02)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        notices = self.notices

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                result = json.loads(self.rfile.read(size))
                notices.extend(
                    Notice(result["receiver"], each["status"], each["labels"], each["annotations"])
                    for each in result["alerts"]
                )
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class Watch(NamedTuple):
    prometheus: Prometheus
    webhook: Webhook

    def unhealthy_rules(self) -> dict[str, str]:
        """By name, what Prometheus says; empty if each was evaluated and is in order."""
        with urllib.request.urlopen(f"{self.prometheus.url}/api/v1/rules", timeout=10) as answer:
            found = json.load(answer)["data"]["groups"]
        assert found
        return {
            rule["name"]: f"{rule['health']}: {rule.get('lastError', '')}"
            for group in found
            for rule in group["rules"]
            if rule["health"] != "ok"
        }


def need_programs() -> None:
    for program in PROGRAMS:
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here (Debian package {program})")


@contextmanager
def watch(folder: Path, scraping: Configuration, alerting: Configuration) -> Iterator[Watch]:
    """Prometheus and Alertmanager where the caller is, by their files.

    The receivers that ``alerting`` routes to are made here: each is the webhook, but for
    ``nobody``, who gets nothing.
    """
    need_programs()
    webhook, ports = Webhook(), (free_port(), free_port())
    to_webhook = [{"url": webhook.url, "send_resolved": True}]
    names = sorted({alerting["route"]["receiver"], *_receivers(alerting["route"])})
    receivers = [
        {"name": name, **({} if name == "nobody" else {"webhook_configs": to_webhook})}
        for name in names
    ]
    targets = [{"static_configs": [{"targets": [f"127.0.0.1:{ports[1]}"]}]}]
    sent = {**scraping, "alerting": {"alertmanagers": targets}}
    with ExitStack() as stack:
        stack.enter_context(webhook.running())
        result = write(folder / "alertmanager.yml", {**alerting, "receivers": receivers})
        flags = (f"--storage.path={folder / 'alertmanager'}", "--cluster.listen-address=")
        stack.enter_context(running("prometheus-alertmanager", result, ports[1], *flags))
        config = write(folder / "prometheus.yml", sent)
        place = f"--storage.tsdb.path={folder / 'tsdb'}"
        url = stack.enter_context(running("prometheus", config, ports[0], place))
        yield Watch(Prometheus(url), webhook)


def _receivers(route: Configuration) -> Iterator[str]:
    for each in route.get("routes", ()):
        yield each["receiver"]
        yield from _receivers(each)
