# SPDX-License-Identifier: Apache-2.0
"""Talks to a ClickHouse server over HTTP: inserts blocks once, and queries."""

import base64
import http.client
import json
import ssl
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from podtally.config import ClickHouse
from podtally.history.clickhouse_schema import TABLE, InsertBlock, names

TIMEOUT_SECONDS = 60.0
_MAX_ERROR = 300  # characters of the server's words


class ServerError(Exception):
    """The server refuses a statement; the text has its words."""


class UncertainError(Exception):
    """The connection failed during a statement: it may have been executed."""


class BlockIdentity(NamedTuple):
    node: str
    stream: str
    batch: int


class ClickHouseClient:
    """One server and database; each request has a connection of its own."""

    def __init__(self, settings: ClickHouse) -> None:
        self.settings = settings
        self._url = urlsplit(settings.url)

    def insert(self, identity: BlockIdentity, block: InsertBlock) -> None:
        """Insert a block; UncertainError if it may be there, ServerError if it is not."""
        query = f"INSERT INTO {self.settings.database}.{TABLE} ({names()}) FORMAT TabSeparated"
        self._post(
            {
                "query": query,
                "query_id": _query_id(identity, block),
                "max_insert_block_size": str(1 << 20),
                "insert_deduplicate": "0",
            },
            block.data,
            {"Content-Encoding": "gzip"},
        )

    def is_running(self, identity: BlockIdentity, block: InsertBlock) -> bool:
        """Return whether the server still executes an insert of this block."""
        wanted = quoted(_query_id(identity, block))
        found = self.select(f"SELECT count() AS n FROM system.processes WHERE query_id = {wanted}")
        return int(found[0]["n"]) > 0

    def rows_of(self, identity: BlockIdentity, block: InsertBlock) -> int:
        """Return how many rows of a block the table has."""
        found = self.select(
            f"SELECT count() AS n FROM {self.settings.database}.{TABLE} "
            f"WHERE time >= toDateTime({block.first}) AND time <= toDateTime({block.last}) "
            f"AND node = {quoted(identity.node)} AND stream = {quoted(identity.stream)} "
            f"AND batch = {identity.batch} AND part = {block.part}"
        )
        return int(found[0]["n"])

    def select(self, query: str) -> list[dict[str, Any]]:
        """Return rows; integers of 64 bits are numbers. ServerError, UncertainError."""
        words = {"output_format_json_quote_64bit_integers": "0"}
        body = self._post(words, f"{query} FORMAT JSONEachRow".encode(), {})
        return [json.loads(line) for line in body.splitlines() if line]

    def execute(self, statement: str) -> None:
        self._post({}, statement.encode(), {})

    def _post(self, words: dict[str, str], body: bytes, headers: dict[str, str]) -> bytes:
        connection = self._connection()
        target = f"{self._url.path or '/'}?{urlencode(words)}"
        try:
            connection.request("POST", target, body, {**headers, **self._authorization()})
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise UncertainError(str(error) or type(error).__name__) from None
        finally:
            connection.close()
        if response.status != http.client.OK:
            words_of_server = answer.decode(errors="replace").strip()[:_MAX_ERROR]
            raise ServerError(words_of_server or f"status {response.status}")
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, port or 8123, timeout=TIMEOUT_SECONDS)
        tls = self.settings.tls
        try:
            context = ssl.create_default_context(cafile=tls.ca_file or None)
            if tls.cert_file:
                context.load_cert_chain(tls.cert_file, tls.key_file or None)
        except OSError as error:
            raise ServerError(f"history.clickhouse.tls: {error}") from None
        return http.client.HTTPSConnection(
            host, port or 8443, timeout=TIMEOUT_SECONDS, context=context
        )

    def _authorization(self) -> dict[str, str]:
        password, file = "", self.settings.password_file
        if file:
            try:
                password = Path(file).read_text().partition("\n")[0]
            except (OSError, UnicodeDecodeError) as error:
                raise ServerError(f"cannot read the password file {file}: {error}") from None
        pair = f"{self.settings.user}:{password}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _query_id(identity: BlockIdentity, block: InsertBlock) -> str:
    return f"podtally {identity.node} {identity.stream} {identity.batch}.{block.part}"
