"""Reading the task table while it is written: finished tasks, history, and whole tables for nodes that fell behind."""

from pathlib import Path

import pytest

from mesh.durable import TaskRow
from mesh.effects import (
    CloseSnapshot,
    InstallSnapshot,
    LoadHistory,
    LoadRows,
    OpenSnapshot,
    ReadSnapshot,
    StageSnapshot,
    WriteLedger,
)
from mesh.events import HistoryLoaded, LedgerWritten, RowsLoaded, SnapshotInstalled, SnapshotOpened, SnapshotRead
from mesh.ids import LogIndex, TaskId
from tests.storage.disk import Disk, disk, ledger_write, mark, recovered_from, task


def _write(opened: Disk, write: object) -> None:
    opened.store.perform(WriteLedger(write))  # type: ignore[arg-type]
    opened.next(LedgerWritten)


def _load(opened: Disk, effect: LoadRows) -> tuple[list[str], str]:
    opened.store.perform(effect)
    loaded = opened.next(RowsLoaded)
    assert loaded.read_id == effect.read_id
    return [row.task_id for row in loaded.rows], loaded.more


def _finished(opened: Disk) -> None:
    """Ten finished tasks, t0 to t9, every third of capability `mail`, and two live ones."""
    rows = [task(f"t{n}", finished=20 - n, capability="mail" if n % 3 == 0 else "code") for n in range(10)]
    _write(opened, ledger_write(1, *rows, task("live"), task("t55")))


def test_named_rows_come_whole_and_in_the_order_asked_for(tmp_path: Path) -> None:
    """Those unknown, or still live (the core knows them better), are left out; none comes twice."""
    with disk(tmp_path) as opened:
        _finished(opened)
        opened.store.perform(LoadRows(5, [TaskId(name) for name in ("t7", "nobody", "t2", "live", "t7")]))
        assert opened.next(RowsLoaded) == RowsLoaded(5, [task("t7", finished=13), task("t2", finished=18)], "")


def test_pages_in_order_of_id(tmp_path: Path) -> None:
    with disk(tmp_path) as opened:
        _finished(opened)
        assert _load(opened, LoadRows(1, [], limit=4)) == (["t0", "t1", "t2", "t3"], "t3")
        assert _load(opened, LoadRows(2, [], after="t3", limit=4)) == (["t4", "t5", "t6", "t7"], "t7")
        assert _load(opened, LoadRows(3, [], after="t7", limit=4)) == (["t8", "t9"], "")


def test_the_last_page_may_be_full(tmp_path: Path) -> None:
    """Then there is no cursor to an empty one."""
    with disk(tmp_path) as opened:
        _finished(opened)
        assert _load(opened, LoadRows(1, [], after="t5", limit=4)) == (["t6", "t7", "t8", "t9"], "")


def test_pages_of_one_capability_and_state(tmp_path: Path) -> None:
    with disk(tmp_path) as opened:
        _finished(opened)
        assert _load(opened, LoadRows(1, [], capability="mail")) == (["t0", "t3", "t6", "t9"], "")
        assert _load(opened, LoadRows(2, [], capability="mail", limit=3)) == (["t0", "t3", "t6"], "t6")
        assert _load(opened, LoadRows(3, [], states=(5, 6), capability="nothing")) == ([], "")
        assert _load(opened, LoadRows(4, [], states=(5,))) == ([], "")
        assert len(_load(opened, LoadRows(5, [], states=(4, 6)))[0]) == 10


def test_a_page_of_large_records_ends_early(tmp_path: Path) -> None:
    """Nine records of 1 MiB are three pages, though a hundred rows were allowed."""
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(1, *(task(f"t{n}", finished=n, record=bytes(1 << 20)) for n in range(1, 10))))
        assert _load(opened, LoadRows(1, [])) == (["t1", "t2", "t3", "t4"], "t4")
        assert _load(opened, LoadRows(2, [], after="t4")) == (["t5", "t6", "t7", "t8"], "t8")
        assert _load(opened, LoadRows(3, [], after="t8")) == (["t9"], "")


def test_history(tmp_path: Path) -> None:
    """Events of entries 1 to 100; those before 41 are dropped by a later write."""
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(100, events=tuple((index, b"events %d" % index) for index in range(1, 101))))
        opened.store.perform(LoadHistory(1, after=97))
        assert opened.next(HistoryLoaded) == HistoryLoaded(
            1, [(98, b"events 98"), (99, b"events 99"), (100, b"events 100")]
        )
        _write(opened, ledger_write(101, events_from=41))
        opened.store.perform(LoadHistory(2, after=0, limit=2))
        assert opened.next(HistoryLoaded) == HistoryLoaded(2, [(41, b"events 41"), (42, b"events 42")])
        opened.store.perform(LoadHistory(3, after=100))
        assert opened.next(HistoryLoaded) == HistoryLoaded(3, [])


# --- snapshots --------------------------------------------------------------------------------------------------------


def _page(opened: Disk, transfer: int, after: str, bytes_max: int) -> SnapshotRead:
    opened.store.perform(ReadSnapshot(transfer, after, bytes_max))
    page = opened.next(SnapshotRead)
    assert page.transfer == transfer
    return page


def test_a_snapshot_is_as_of_one_moment_while_writing_goes_on(tmp_path: Path) -> None:
    """Between any two pages rows are changed, added and forgotten. The reader sees none of it."""
    rows = [task(f"t{n:04}", finished=n % 5 and n) for n in range(1_000)]
    events = [(index, b"events %d" % index) for index in range(1, 301)]
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(300, *rows, events=tuple(events)))
        opened.store.perform(OpenSnapshot(7))
        assert opened.next(SnapshotOpened) == SnapshotOpened(7, mark(300))
        found: list[TaskRow] = []
        history: list[tuple[int, bytes]] = []
        after, pages = "", 0
        while pages == 0 or after:
            page = _page(opened, 7, after, 10_000)
            found += page.rows
            history += page.events
            after, pages = page.more, pages + 1
            changed = [task(f"t{n:04}", record=b"changed %d" % pages) for n in range(0, 1_000, 7)]
            added = task(f"t{pages}-added")
            _write(opened, ledger_write(300 + pages, *changed, added, forgotten=("t0003",), events_from=pages))
        in_order = [row for row in rows if not row.finished] + sorted(rows, key=lambda row: row.finished)[200:]
        assert (found, history) == (in_order, events)
        assert pages > 10


@pytest.mark.parametrize(("bytes_max", "pages_wanted"), [(0, 7), (1, 7), (100, 7), (300, 5), (1 << 20, 1)])
def test_pages_of_any_size_make_the_same_whole(tmp_path: Path, bytes_max: int, pages_wanted: int) -> None:
    """However small a page is, it gets further; rows larger than a page travel alone."""
    rows = [task("a"), task("b", record=bytes(5_000)), task("c", finished=1), task("d")]
    events = [(1, b"one"), (3, bytes(5_000)), (4, b"four")]
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(4, *rows, events=tuple(events)))
        opened.store.perform(OpenSnapshot(1))
        opened.next(SnapshotOpened)
        pages = [_page(opened, 1, "", bytes_max)]
        while pages[-1].more:
            pages.append(_page(opened, 1, pages[-1].more, bytes_max))
        assert [row for page in pages for row in page.rows] == [*rows[:2], rows[3], rows[2]]
        assert [event for page in pages for event in page.events] == events
        assert all(page.rows or page.events for page in pages)
        assert len(pages) == pages_wanted


def test_a_page_can_be_asked_for_again(tmp_path: Path) -> None:
    """Its answer was lost on the way: the same cursor gives the same page."""
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(1, *(task(f"t{n}") for n in range(50))))
        opened.store.perform(OpenSnapshot(1))
        opened.next(SnapshotOpened)
        first = _page(opened, 1, "", 1_000)
        assert _page(opened, 1, first.more, 1_000) == _page(opened, 1, first.more, 1_000)
        assert _page(opened, 1, "", 1_000) == first


def test_a_table_never_written_gives_no_snapshot(tmp_path: Path) -> None:
    with disk(tmp_path) as opened:
        opened.store.perform(OpenSnapshot(1))
        assert opened.next(SnapshotRead) == SnapshotRead(1, [], [], "!gone")


def test_a_third_snapshot_closes_the_oldest(tmp_path: Path) -> None:
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(1, task("a")))
        for transfer in (1, 2, 3):
            opened.store.perform(OpenSnapshot(transfer))
            opened.next(SnapshotOpened)
        assert _page(opened, 1, "", 1_000) == SnapshotRead(1, [], [], "!gone")
        assert _page(opened, 2, "", 1_000).rows == [task("a")]
        assert _page(opened, 3, "", 1_000).rows == [task("a")]


def test_a_closed_snapshot_is_gone(tmp_path: Path) -> None:
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(1, task("a")))
        opened.store.perform(OpenSnapshot(1))
        opened.next(SnapshotOpened)
        opened.store.perform(CloseSnapshot(1))
        opened.store.perform(CloseSnapshot(1))
        assert _page(opened, 1, "", 1_000).more == "!gone"


def test_a_snapshot_of_a_table_that_was_replaced_is_gone(tmp_path: Path) -> None:
    """This node was sending its table when it had to take in another's."""
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(1, task("a")))
        opened.store.perform(OpenSnapshot(1))
        opened.next(SnapshotOpened)
        opened.store.perform(StageSnapshot(2, [task("b")], [], first=True))
        opened.store.perform(InstallSnapshot(2, mark(9)))
        opened.next(SnapshotInstalled)
        assert _page(opened, 1, "", 1_000).more == "!gone"
        opened.store.perform(OpenSnapshot(1))
        assert opened.next(SnapshotOpened).mark == mark(9)
        assert _page(opened, 1, "", 1_000).rows == [task("b")]


def test_what_one_node_sends_another_can_install(tmp_path: Path) -> None:
    """The whole way of a table, page by page, ends in the same table."""
    rows = [task(f"t{n:03}", finished=max(0, n - 100)) for n in range(200)]
    with disk(tmp_path / "n1") as ana, disk(tmp_path / "n2", node_id="n2") as ben:
        _write(ana, ledger_write(80, *rows, events=((79, b"a"), (80, b"b"))))
        ana.store.perform(OpenSnapshot(1))
        at = ana.next(SnapshotOpened).mark
        page = _page(ana, 1, "", 2_000)
        ben.store.perform(StageSnapshot(1, page.rows, page.events, first=True))
        while page.more:
            page = _page(ana, 1, page.more, 2_000)
            ben.store.perform(StageSnapshot(1, page.rows, page.events, first=False))
        ben.store.perform(InstallSnapshot(1, at))
        assert ben.next(SnapshotInstalled).recovered.mark == at
        ben.store.perform(LoadHistory(1, after=0))
        assert ben.next(HistoryLoaded).batches == [(79, b"a"), (80, b"b")]
    installed = recovered_from(tmp_path / "n2", node_id="n2")
    assert installed.live == rows[:101]
    assert [name for name, _ in installed.finished] == [row.task_id for row in rows[101:]]


@pytest.mark.parametrize(
    ("upto", "wanted"),
    [
        ("tb", ["b 2", "c", "d", "g", "h", "e 2", "f 2"]),
        ("tc", ["b 2", "d", "g", "h", "e 2", "f 2"]),
        ("f1", ["b 2", "g", "e 2", "f 2"]),
        ("f2", ["b 2", "g", "f 2"]),
        ("nonsense", ["b 2", "g", "h", "e 2", "f 2"]),
    ],
)
def test_of_rows_another_has_sent_only_those_that_changed_are_read(
    tmp_path: Path, upto: str, wanted: list[str]
) -> None:
    """As of entry 1 somebody has sent rows up to a cursor; meanwhile b changed, g came, and e and f finished."""
    with disk(tmp_path) as opened:
        _write(opened, ledger_write(1, *(task(name) for name in "abcdef"), task("h", finished=1)))
        changed = [task("b", record=b"b 2"), task("g", record=b"g")]
        ended = [task("e", record=b"e 2", finished=2), task("f", record=b"f 2", finished=3)]
        _write(opened, ledger_write(2, *changed, *ended))
        opened.store.perform(OpenSnapshot(1))
        opened.next(SnapshotOpened)
        found: list[str] = []
        after, pages = "", 0
        while pages == 0 or after:
            opened.store.perform(ReadSnapshot(1, after, 1, LogIndex(1), upto))
            page = opened.next(SnapshotRead)
            found += [row.record.decode() if len(row.record) < 4 else row.task_id for row in page.rows]
            after, pages = page.more, pages + 1
        assert found == wanted
