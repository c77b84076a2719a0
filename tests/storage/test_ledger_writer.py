"""The task table, written behind the log: what a start finds of it, and whole tables that come from elsewhere."""

from pathlib import Path

import msgspec
import pytest

from mesh.durable import LedgerMark, Recovered, TaskRow
from mesh.effects import InstallSnapshot, LoadRows, StageSnapshot, TrimLog, WriteLedger
from mesh.events import DiskFailed, LedgerWritten, RowsLoaded, SnapshotInstalled
from mesh.ids import LogIndex, TaskId, Term
from tests.storage.disk import Disk, disk, entries, entry, ledger_write, mark, recovered_from, task, vote


def _write(opened: Disk, *writes: object) -> None:
    for write in writes:
        opened.store.perform(WriteLedger(write))  # type: ignore[arg-type]
        opened.next(LedgerWritten)


def test_each_write_is_answered_with_where_the_table_stands(tmp_path: Path) -> None:
    with disk(tmp_path) as opened:
        for index in (3, 5, 9):
            opened.store.perform(WriteLedger(ledger_write(index, task(f"t{index}"))))
        assert [opened.next(LedgerWritten).applied_index for _ in range(3)] == [3, 5, 9]
    found = recovered_from(tmp_path)
    assert (found.mark, found.live) == (mark(9), [task("t3"), task("t5"), task("t9")])


def test_a_changed_row_replaces_the_old_one(tmp_path: Path) -> None:
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(1, task("a"), task("b")), ledger_write(2, task("a", record=b"other")))
    assert recovered_from(tmp_path).live == [task("a", record=b"other"), task("b")]


def test_finished_tasks_come_back_in_the_order_they_finished(tmp_path: Path) -> None:
    """Whatever their ids are, and in whatever order they were written."""
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(1, task("m", finished=3), task("z", finished=1), task("live")))
        _write(opened, ledger_write(2, task("a", finished=4), task("q", finished=2)))
    found = recovered_from(tmp_path)
    assert found.finished == [("z", 1_001), ("q", 1_002), ("m", 1_003), ("a", 1_004)]
    assert (found.finished_last, found.live) == (4, [task("live")])


def test_a_number_whose_id_was_taken_again_comes_back_as_nobodys(tmp_path: Path) -> None:
    """E.11: b, c and e live again. Whoever starts from this table knows that d was the fourth all the same.
    What is taken again at the end leaves the last number that there is.
    """
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(1, *(task(name, finished=number) for number, name in enumerate("abcde", 1))))
        _write(opened, ledger_write(2, task("b"), task("c"), task("e")))
    found = recovered_from(tmp_path)
    assert found.finished == [("a", 1_001), ("", 0), ("", 0), ("d", 1_004)]
    assert (found.finished_last, [row.task_id for row in found.live]) == (4, ["b", "c", "e"])


def test_forgotten_tasks_leave_the_disk(tmp_path: Path) -> None:
    rows = [task(f"t{number}", finished=number) for number in range(1, 1_201)]
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(1, *rows))
        _write(opened, ledger_write(2, forgotten=tuple(f"t{number}" for number in range(1, 1_101))))
    found = recovered_from(tmp_path)
    assert found.finished == [(f"t{number}", 1_000 + number) for number in range(1_101, 1_201)]
    assert found.finished_last == 1_200


def test_an_id_forgotten_and_submitted_again_is_kept(tmp_path: Path) -> None:
    """Both happened since the last write, in this order: nothing else puts an id in both lists."""
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(1, task("a", finished=1)))
        _write(opened, ledger_write(2, task("a"), forgotten=("a",)))
    found = recovered_from(tmp_path)
    assert (found.live, found.finished) == ([task("a")], [])


@pytest.mark.parametrize("fingerprint", [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_fingerprints_of_64_bits(tmp_path: Path, fingerprint: int) -> None:
    """SQLite's integers have a sign; fingerprints do not."""
    row = TaskRow(TaskId("a"), 6, "code", 1, fingerprint, b"record")
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(1, row))
        opened.store.perform(LoadRows(1, [TaskId("a")]))
        assert opened.next(RowsLoaded).rows == [row]
    assert recovered_from(tmp_path).finished == [("a", fingerprint)]


@pytest.mark.parametrize("task_id", ["", "ü/☃ 𝄞", "a\0b", "'; DROP TABLE tasks; --", "x" * 4_096])
def test_ids_are_only_ever_text(tmp_path: Path, task_id: str) -> None:
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(1, task(task_id, capability=task_id, record=b"")))
    assert recovered_from(tmp_path).live == [task(task_id, capability=task_id, record=b"")]


def test_what_cannot_be_written_stops_the_writer(tmp_path: Path) -> None:
    """The write before it stands, the one after it is not performed, and the core is told once."""
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(1, task("a")))
        opened.store.perform(WriteLedger(ledger_write(2, task("b"), TaskRow(TaskId("c"), 1, "", 0, 1 << 70, b""))))
        opened.store.perform(WriteLedger(ledger_write(3, task("d"))))
        assert "OverflowError" in opened.next(DiskFailed).reason
    with disk(tmp_path) as after:
        assert (after.recovered.mark, after.recovered.live) == (mark(1), [task("a")])


# --- joining log and table --------------------------------------------------------------------------------------------


def test_a_table_ahead_of_the_log_starts_the_log_anew(tmp_path: Path) -> None:
    """The table holds entry 5, which was committed elsewhere; this node's own log had only reached 3 when it died."""
    with disk(tmp_path) as opened:
        opened.persist(1, *entries(1, 3), vote=vote(1, "n2"))
        opened.durable(1)
        _write(opened, ledger_write(5, task("a"), term=2))
    found = recovered_from(tmp_path)
    assert (found.entries, found.before_term, found.hard_state) == ([], 2, vote(1, "n2"))
    with disk(tmp_path) as again:
        again.persist(1, entry(6, term=2))
        again.durable(1)
    assert recovered_from(tmp_path).entries == [entry(6, term=2)]


def test_a_log_on_another_branch_than_the_table_starts_anew(tmp_path: Path) -> None:
    """Entry 4 was committed in term 2; whatever this log holds from 4 on in term 1 never was."""
    with disk(tmp_path) as opened:
        opened.persist(1, *entries(1, 9))
        opened.durable(1)
        _write(opened, ledger_write(4, term=2))
    found = recovered_from(tmp_path)
    assert (found.entries, found.before_term) == ([], 2)


def test_entries_the_table_covers_are_kept(tmp_path: Path) -> None:
    """They are the tail for followers that lag a little."""
    with disk(tmp_path) as opened:
        opened.persist(1, *entries(1, 9))
        opened.durable(1)
        _write(opened, ledger_write(4))
    assert recovered_from(tmp_path).entries == entries(1, 9)


# --- tables from elsewhere --------------------------------------------------------------------------------------------

THEIRS = [task("x"), task("y", finished=7), task("z", finished=8)]


def _before_the_snapshot(opened: Disk) -> None:
    """This node has entries 1 to 6 of term 1, and a table of its own."""
    opened.persist(1, *entries(1, 6), vote=vote(1, "n1"))
    opened.durable(1)
    _write(opened, ledger_write(3, task("a"), task("b", finished=1), events=((1, b"old"),)))


def _stage(opened: Disk, transfer: int = 9, rows: list[TaskRow] = THEIRS) -> None:
    opened.store.perform(StageSnapshot(transfer, rows[:2], [], first=True))
    opened.store.perform(StageSnapshot(transfer, rows[2:], [(40, b"event")], first=False))


def _install(opened: Disk, at: LedgerMark, transfer: int = 9) -> Recovered:
    opened.store.perform(InstallSnapshot(transfer, at))
    installed = opened.next(SnapshotInstalled)
    assert installed.transfer == transfer
    return installed.recovered


def _but_for_rows(recovered: Recovered) -> Recovered:
    """What is told of an installed table: the core has had its rows."""
    return msgspec.structs.replace(recovered, live=[], finished=[], finished_last=0)


def test_an_installed_table_replaces_the_old_one_and_the_log(tmp_path: Path) -> None:
    """The log had not got that far: it starts empty after entry 50. What the event says, a restart says too."""
    expected = Recovered(
        hard_state=vote(1, "n1"),
        entries=[],
        before_term=Term(3),
        mark=mark(50, term=3),
        live=[task("x")],
        finished=[(TaskId("y"), 1_007), (TaskId("z"), 1_008)],
        finished_last=8,
    )
    with disk(tmp_path) as opened:
        _before_the_snapshot(opened)
        _stage(opened)
        assert _install(opened, mark(50, term=3)) == _but_for_rows(expected)
    assert recovered_from(tmp_path) == expected


def test_a_log_that_passes_through_the_snapshot_keeps_what_comes_after(tmp_path: Path) -> None:
    """Its entries 5 and 6 may already be counted in a quorum (etcd `restore`: fast-forward, never cut)."""
    with disk(tmp_path) as opened:
        _before_the_snapshot(opened)
        _stage(opened)
        installed = _install(opened, mark(4))
        assert (installed.entries, installed.before_term) == (entries(5, 6), 1)
    assert _but_for_rows(recovered_from(tmp_path)) == installed


def test_a_log_on_another_branch_is_dropped_as_a_whole(tmp_path: Path) -> None:
    with disk(tmp_path) as opened:
        _before_the_snapshot(opened)
        _stage(opened)
        installed = _install(opened, mark(4, term=2))
        assert (installed.entries, installed.before_term) == ([], 2)
    assert _but_for_rows(recovered_from(tmp_path)) == installed


def test_persists_around_an_install_keep_their_order(tmp_path: Path) -> None:
    """All of it is handed over before the threads run: what comes before is cut away, what comes after is kept."""
    with disk(tmp_path, started=False) as waiting:
        waiting.persist(1, *entries(1, 6))
        _stage(waiting)
        waiting.store.perform(InstallSnapshot(9, mark(50, term=3)))
        waiting.persist(2, *entries(51, 52, term=3), vote=vote(4))
        waiting.store.start()
        waiting.durable(1)
        seen = [type(waiting.events.get(timeout=20)).__name__ for _ in range(4)]
        assert sorted(seen) == ["Durable", "SnapshotInstalled", "SnapshotStaged", "SnapshotStaged"]
    found = recovered_from(tmp_path)
    assert (found.entries, found.before_term, found.hard_state) == (entries(51, 52, term=3), 3, vote(4))


def test_the_node_goes_on_with_the_new_table(tmp_path: Path) -> None:
    """Writing, reading and trimming all speak of the installed table, and the old file is gone."""
    with disk(tmp_path) as opened:
        _before_the_snapshot(opened)
        _stage(opened)
        _install(opened, mark(50, term=3))
        opened.persist(2, *entries(51, 60, term=3))
        opened.durable(2)
        _write(opened, ledger_write(55, task("x", finished=9), term=3))
        opened.store.perform(TrimLog(LogIndex(54), Term(3)))
        opened.store.perform(LoadRows(1, []))
        assert [row.task_id for row in opened.next(RowsLoaded).rows] == ["x", "y", "z"]
    assert sorted(file.name for file in tmp_path.glob("*.db*")) == ["ledger-2.db", "log.db"]
    found = recovered_from(tmp_path)
    assert (found.mark, found.entries, found.finished_last) == (mark(55, term=3), entries(54, 60, term=3), 9)


def test_a_crash_before_the_install_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """Staged rows are nothing until the log says otherwise; the next start throws them away."""
    with disk(tmp_path) as opened:
        _before_the_snapshot(opened)
        _stage(opened)
        _write(opened, ledger_write(4))
        staged = (tmp_path / "ledger-2.db").read_bytes()
    before = recovered_from(tmp_path)
    (tmp_path / "ledger-2.db").write_bytes(staged)
    assert recovered_from(tmp_path) == before
    assert before.mark == mark(4)
    assert not (tmp_path / "ledger-2.db").exists()


def test_a_second_transfer_throws_away_what_the_first_had_staged(tmp_path: Path) -> None:
    """Another leader begins anew; rows of the two never mix (openraft 2eccb9e1)."""
    with disk(tmp_path) as opened:
        _stage(opened, transfer=8, rows=[task("old 1"), task("old 2"), task("old 3")])
        _stage(opened, transfer=9)
        _install(opened, mark(50))
        assert not (tmp_path / "ledger-2.db").exists()
    assert recovered_from(tmp_path).live == [task("x")]


def test_a_transfer_goes_on_where_another_broke_off(tmp_path: Path) -> None:
    """Rows of the first stay, but for those the second has newer ones of, and for what has been forgotten since."""
    with disk(tmp_path) as opened:
        first = [task("a"), task("b"), task("c", finished=1), task("d", finished=2)]
        opened.store.perform(StageSnapshot(8, first, [], first=True, as_of=LogIndex(40)))
        rest = [task("a", record=b"newer"), task("b", finished=3), task("c")]
        opened.store.perform(StageSnapshot(9, rest, [], first=False, as_of=LogIndex(50), forget_to=1))
        _install(opened, mark(50))
    found = recovered_from(tmp_path)
    assert found.live == [task("a", record=b"newer"), task("c")]
    assert [task_id for task_id, _ in found.finished] == ["d", "b"]


def test_two_installs_in_quick_succession(tmp_path: Path) -> None:
    """(etcd; consensus D22)"""
    with disk(tmp_path) as opened:
        for transfer, index in ((1, 50), (2, 60), (3, 70)):
            _stage(opened, transfer)
            opened.store.perform(InstallSnapshot(transfer, mark(index)))
        assert [opened.next(SnapshotInstalled).recovered.mark for _ in range(3)] == [mark(50), mark(60), mark(70)]
    assert recovered_from(tmp_path).mark == mark(70)


@pytest.mark.parametrize("staged", [None, 8])
def test_what_was_not_staged_is_not_installed(tmp_path: Path, staged: int | None) -> None:
    """A broken invariant; the old table stays. Persists that wait behind it are never reported."""
    with disk(tmp_path) as opened:
        if staged is not None:
            _stage(opened, transfer=staged)
        opened.store.perform(InstallSnapshot(9, mark(50)))
        opened.persist(1, entry(51))
        assert "only what was staged is installed" in opened.next(DiskFailed).reason
    assert opened.events.empty()
    assert recovered_from(tmp_path).mark is None
