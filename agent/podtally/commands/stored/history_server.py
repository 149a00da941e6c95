# SPDX-License-Identifier: Apache-2.0
"""Answers queries from the configured ClickHouse server."""

from podtally.api.flows import flows_reply
from podtally.api.schema import Flows
from podtally.config import Config
from podtally.errors import PodtallyError
from podtally.history.clickhouse import ClickHouseClient, ServerError, UncertainError
from podtally.history.clickhouse_query import answer
from podtally.history.query_text import Words, parse_query


def flows_of_server(config: Config, words: Words) -> Flows:
    """Return what the server has; PodtallyError if it does not answer."""
    settings = config.history.clickhouse
    if not settings.url:
        raise PodtallyError(
            "no ClickHouse server is configured", "set history.clickhouse.url, and give --config"
        )
    prices = config.prices.by_scope()
    try:
        found = answer(ClickHouseClient(settings), parse_query(words, prices))
    except ServerError as error:
        raise PodtallyError(f"ClickHouse refuses: {error}", "see docs/history.md") from None
    except UncertainError as error:
        raise PodtallyError(
            f"ClickHouse on {settings.url} does not answer: {error}", "check history.clickhouse.url"
        ) from None
    return flows_reply(found, any(prices))
