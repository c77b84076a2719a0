"""The table of TRACK_RECORD.md is complete, and names tests that exist."""

import ast
import functools
import re
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = (TESTS / "TRACK_RECORD.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]*) \| ([^|]*) \| ([^|]+) \|$", TABLE, re.MULTILINE)
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", TABLE)


@functools.cache
def _tests(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_case_has_its_line() -> None:
    """29 cases and 7 of ZeroMQ, in order, each with what went wrong and a test."""
    names = [name for name, _, _ in ROWS if re.fullmatch(r"[DZ]\d+", name)]
    assert names == [f"D{number}" for number in range(1, 30)] + [f"Z{number}" for number in range(1, 8)]
    for name, what, answer in ROWS:
        assert answer == "Test" or "::test_" in answer, f"{name} {what}"
        assert what or not re.fullmatch(r"[DZ]\d+", name), name


def test_every_test_that_is_named_exists() -> None:
    """A test that is renamed or lost is missed here."""
    assert len(NAMED) > 130
    missing = [
        f"{file}::{name}" for file, name in NAMED if not (TESTS / file).exists() or name not in _tests(TESTS / file)
    ]
    assert missing == []


def test_every_test_of_a_case_is_in_the_table() -> None:
    """Tests that bear the number of a case, in the files made for this table."""
    named = {name for _, name in NAMED}
    files = [*TESTS.glob("raft/test_track_record*.py"), *TESTS.glob("sim/test_track_record*.py")]
    written = {name for path in files for name in _tests(path) if re.match(r"test_[ad]\d", name)}
    assert len(written) > 20
    assert sorted(written - named) == []
