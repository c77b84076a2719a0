"""TRACK_RECORD.md speaks of tests that exist."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_each_test_the_page_names_is_there() -> None:
    file = ""
    named = re.findall(r"`(test_\w+\.py)?::(test_\w+)`", (HERE / "TRACK_RECORD.md").read_text(encoding="utf-8"))
    assert len(named) > 40
    for name, test in named:
        file = name or file
        assert f"\ndef {test}(" in (HERE / file).read_text(encoding="utf-8"), f"{file}::{test}"
