"""The table of TRACK_RECORD.md is complete, and names tests that exist."""

import ast
import functools
import re
from pathlib import Path

from tests.transport.stage import ROOT

TABLE = (Path(__file__).parent / "TRACK_RECORD.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| E(\d+) \| ([^|]+) \| ([^|]+) \|$", TABLE, re.MULTILINE)
NAMED = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", TABLE)


@functools.cache
def _tests(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_case_has_its_line() -> None:
    """48 cases, in order, each with a test or with one of the three other answers."""
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 49))
    for number, _, answer in ROWS:
        assert "::test_" in answer or answer.startswith(("does not apply: ", "elsewhere: ")), number


def test_every_test_that_is_named_exists() -> None:
    """A test that is renamed or lost is missed here."""
    assert len(NAMED) > 60
    missing = []
    for file, name in NAMED:
        path = ROOT / file if "/" in file else ROOT / "tests" / "transport" / file
        if not path.exists() or (name and name not in _tests(path)):
            missing.append(f"{file}::{name}")
    assert missing == []
