# SPDX-License-Identifier: Apache-2.0
"""The tables of all families, made from their declarations."""

from collections.abc import Mapping
from typing import Any

from podtally.ledger.metrics.families import KEPT
from podtally.ledger.metrics.family import Family, Labels
from podtally.ledger.series.series import SeriesTable, SeriesView


class Tables:
    """One table for each family that is kept."""

    def __init__(self) -> None:
        self.by_name: Mapping[str, SeriesTable[Any]] = {
            each.name: SeriesTable(len(each.sums), each.labels) for each in KEPT
        }

    def __getitem__(self, family: Family[Labels]) -> SeriesTable[Labels]:
        return self.by_name[family.name]

    def views(self) -> dict[str, SeriesView[Any]]:
        """Return copies for readers, by the names of families."""
        return {name: table.view() for name, table in self.by_name.items()}
