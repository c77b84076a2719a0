"""`mesh demo`, small: some files, three nodes, one of them killed."""

import ast
from pathlib import Path

from mesh.documents import EventLine
from nodes.demo import FILES_MAX, Kill, Outcome, _measure, python_files
from tests.cli.command import mesh

SOURCE = "def f(x):\n    if x:\n        return 1\n    return [y for y in x]\n"


def test_the_demo_loses_its_leader_and_nothing_else(tmp_path: Path) -> None:
    """Sixty files, one of which is no Python. The report adds up, and so do the books."""
    for number in range(59):
        (tmp_path / f"m{number}.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def :\n")
    ran = mesh("demo", str(tmp_path), "--json")
    assert ran.code == 0, ran.err
    found = ran.document
    assert (found["submitted"], found["completed"], found["dead"], found["lost"], found["twice"]) == (61, 61, 0, 0, 0)
    assert len(found["killed"]) == 1
    assert 0 < found["leaderless_ms"] < 5_000
    assert 0 < found["detect_ms"] < 5_000
    assert found["tasks_per_s"] > 0
    lines = 59 * 4 + 1
    report = {name: found["report"][name] for name in ("files", "lines", "functions", "branches", "unparsed")}
    assert report == {"files": 60, "lines": lines, "functions": 59, "branches": 59, "unparsed": 1}
    assert f"SIGKILL to {found['killed'][0]}, the leader" in ran.err


def test_without_a_kill_nothing_is_measured_of_one(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(SOURCE)
    ran = mesh("demo", str(tmp_path), "--no-kill", "--nodes", "1", "--json")
    assert (ran.code, ran.document["killed"], ran.document["leaderless_ms"]) == (0, [], None)


def test_a_directory_without_python_is_a_usage_error(tmp_path: Path) -> None:
    assert mesh("demo", str(tmp_path)).code == 2


def test_the_standard_library_is_what_it_reads_unless_told_otherwise() -> None:
    """Whole, and nothing that was installed on top of it."""
    files = python_files(None)
    assert 500 < len(files) <= FILES_MAX
    assert Path(ast.__file__) in files
    assert not any("site-packages" in file.parts for file in files)


def _event(at: int, event: str, node: str | None = None, task: str | None = None, detail: str = "") -> EventLine:
    return EventLine(1, at, event, node, task, 0, 0, detail)


def test_times_are_read_from_the_events() -> None:
    """ana leads and is killed at 1,000; ben is elected at 1,060; the verdict falls at 1,200; her tasks move on."""
    events = [
        _event(10, "leader_elected", "ana"),
        _event(900, "task_completed", "ana", "t0"),
        _event(1_060, "leader_elected", "ben"),
        _event(1_200, "node_failed", "ana"),
        _event(1_210, "task_reassigned", "ben", "t1", "from ana"),
        _event(1_230, "task_reassigned", "eva", "t2", "from ana"),
        _event(1_400, "task_completed", "ben", "t1"),
        _event(1_500, "task_completed", "eva", "t2"),
        _event(1_501, "task_completed", "eva", "t2"),
    ]
    outcome = Outcome()
    _measure(events, [Kill("ana", 1_000, True)], outcome)
    times = (outcome.leaderless_ms, outcome.detect_ms, outcome.reassign_ms)
    assert (times, outcome.reassigned, outcome.twice) == ((60, 200, 30), 2, 1)
