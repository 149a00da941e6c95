# SPDX-License-Identifier: Apache-2.0
"""``podtally history``: exports the history, and prints the schema for ClickHouse."""

import argparse
import datetime
import sys
from pathlib import Path

from podtally.commands.shared import agent_query, times
from podtally.config import from_arguments
from podtally.errors import PodtallyError

_EPILOG = """\
examples:
  podtally history export --format csv --since yesterday > flows.csv
  podtally history export --format parquet --file flows.parquet
  podtally history schema clickhouse | clickhouse-client --multiquery
  podtally history schema clickhouse --server 18.16

`export` writes the rows of the file that the agent keeps, by minute or by --interval, without the
minute that is open. Parquet needs pyarrow: pip install 'podtally[parquet]'.
Exit codes: 0 fine, 2 usage error, or the file cannot be read.
"""
_FORMATS = ("parquet", "csv", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    export = actions.add_parser("export", help="write rows to a file, or standard output")
    export.add_argument("--format", choices=_FORMATS, default="csv", help="default: csv")
    export.add_argument("--file", type=Path, metavar="FILE", help="default: standard output")
    export.add_argument("--since", metavar="TIME", help="from then on (default: all)")
    export.add_argument("--until", metavar="TIME", help="up to then (default: all)")
    export.add_argument(
        "--interval", choices=("minute", "hour", "day"), default="minute", help="default: minute"
    )
    export.add_argument("--store", type=Path, metavar="FILE", help="the history (default: history)")
    agent_query.add_address(export)
    schema = actions.add_parser("schema", help="print the tables of another store")
    schema.add_argument("store", choices=("clickhouse",), metavar="clickhouse")
    schema.add_argument("--database", default="podtally", metavar="NAME", help="default: podtally")
    schema.add_argument(
        "--server", choices=("current", "18.16"), default="current", help="the server's version"
    )
    schema.add_argument(
        "--days", type=int, default=90, metavar="N", help="how long rows are kept (default: 90)"
    )


def main(args: argparse.Namespace) -> int:
    if args.action == "schema":
        from podtally.history import clickhouse_schema

        old = args.server == clickhouse_schema.OLD
        print(clickhouse_schema.statements(args.database, old, args.days), end="")
        return 0
    from podtally.history.export import export

    now = datetime.datetime.now().astimezone()
    ends = [
        times.parse(text, now, flag).timestamp() if text else default
        for flag, text, default in (("--since", args.since, 0.0), ("--until", args.until, 1e11))
    ]
    path = args.store or from_arguments(args).history.file
    if not path.exists():
        raise PodtallyError(f"there is no history {path}", "give the file with --store")
    export(path, args.interval, (ends[0], ends[1]), args.format, args.file or sys.stdout)
    return 0
