"""docs/metrics.md names what /metrics has, and nothing else."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.unit.test_exposition import publisher

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_and_the_exposition_have_the_same_names() -> None:
    body = publisher().render("")[0].decode()
    shown = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(body)
        if family.name.startswith("podtally_")
    }
    assert set(re.findall(r"`(podtally_\w+)`", PAGE.read_text())) == shown
