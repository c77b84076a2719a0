"""A disk that fails while the node runs: nothing is promised after it, nothing promised before it is lost, and the
operator is told in one go what failed and what to do.
"""

from pathlib import Path
from threading import Event as Signal

import pytest

from mesh.effects import LoadHistory, LoadRows, OpenSnapshot, ReadSnapshot, WriteLedger
from mesh.events import DiskFailed, Durable, Event, LedgerWritten, RowsLoaded, SnapshotOpened, SnapshotRead
from mesh.ids import PersistToken, TaskId
from mesh.storage import reader, work_queue
from mesh.storage.faults import StoreDamaged, StoreRefused
from mesh.storage.quarantine import set_aside
from mesh.storage.reader import TRIES_MAX
from tests.storage.disk import WAIT_S, Disk, disk, entries, entry, ledger_write, task, vote
from tests.storage.faulty_disk import (
    BUSY,
    CANTOPEN,
    FULL,
    IOERR_FSYNC,
    IOERR_READ,
    IOERR_WRITE,
    Call,
    Rule,
    beneath,
    fail,
)


def _write_on(opened: Disk) -> tuple[list[Event], int, int]:
    """Twelve batches and six tables, each waited for, until the disk fails. Returns all events, the last token that
    was reported and where the table stood.
    """
    seen: list[Event] = []
    token = applied = 0
    for index in range(1, 13):
        opened.persist(index, entry(index, data=bytes(5_000)), vote=vote(index))
        if index % 2 == 0:
            opened.store.perform(WriteLedger(ledger_write(index // 2, task(f"t{index}"))))
        while token < index or applied < index // 2:
            event = opened.events.get(timeout=WAIT_S)
            seen.append(event)
            if isinstance(event, DiskFailed):
                return seen, token, applied
            token = event.token if isinstance(event, Durable) else token
            applied = event.applied_index if isinstance(event, LedgerWritten) else applied
    return seen, token, applied


CALLS = [
    ("sync", "log.db-wal", IOERR_FSYNC, "SQLITE_IOERR_FSYNC"),
    ("write", "log.db-wal", IOERR_WRITE, "SQLITE_IOERR_WRITE"),
    ("write", "log.db-wal", FULL, "SQLITE_FULL"),
    ("sync", "ledger-1.db-wal", IOERR_FSYNC, "SQLITE_IOERR_FSYNC"),
    ("write", "ledger-1.db-wal", IOERR_WRITE, "SQLITE_IOERR_WRITE"),
    ("write", "ledger-1.db-wal", FULL, "SQLITE_FULL"),
]


@pytest.mark.parametrize(("kind", "name", "code", "word"), CALLS)
@pytest.mark.parametrize("nth", [1, 2, 5])
def test_a_disk_that_fails_at_the_nth_call(
    tmp_path: Path, kind: str, name: str, code: int, word: str, nth: int
) -> None:
    """The core hears of it once. With another disk the node starts from all that was reported."""
    with disk(tmp_path, node_id="ana"):
        pass
    calls_of_a_start = 0

    def count(call: Call) -> int:
        nonlocal calls_of_a_start
        calls_of_a_start += (call.kind, call.name) == (kind, name)
        return 0

    with beneath(count), disk(tmp_path, node_id="ana"):
        first = calls_of_a_start + nth
    with beneath(fail(kind, name, first, code)):
        opened = Disk(tmp_path, node_id="ana")
        seen, token, applied = _write_on(opened)
        late = [entry(index) for index in range(13, 16)]
        opened.persist(99, *late)
        opened.store.close()
    (failed,) = [event for event in seen if isinstance(event, DiskFailed)]
    file = name.removesuffix("-wal")
    assert failed.reason.startswith(f"Writing {tmp_path}/{file} failed: ") and word in failed.reason
    assert ("Make room on this disk" in failed.reason) is (code == FULL)
    while not opened.events.empty():
        late_event = opened.events.get()  # Of the other writer, which was in the middle of something.
        assert isinstance(late_event, LedgerWritten | Durable) and late_event != Durable(PersistToken(99))
    with disk(tmp_path, node_id="ana") as after:
        found = after.recovered
        assert [kept.index for kept in found.entries] == list(range(1, len(found.entries) + 1))
        assert len(found.entries) >= token and (found.hard_state.term if found.hard_state else 0) >= token
        assert (found.mark.applied_index if found.mark else 0) >= applied
        assert len(found.entries) < 13


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        ("write", "log.db-wal", FULL),
        ("sync", "log.db-wal", IOERR_FSYNC),
        ("write", "ledger-1.db-wal", FULL),
        ("sync", "ledger-1.db-wal", IOERR_FSYNC),
        ("read", "log.db", IOERR_READ),
        ("read", "ledger-1.db", IOERR_READ),
        ("open", "ledger-1.db", CANTOPEN),
    ],
)
def test_a_disk_that_fails_at_the_start_is_refused_and_not_called_damaged(
    tmp_path: Path, kind: str, name: str, code: int
) -> None:
    """A full disk or one that answers nothing says nothing of what is on it: the directory is not set aside for it.
    When it is well again, the node starts as if it had not been tried.
    """
    with disk(tmp_path, node_id="ana") as opened:
        opened.persist(1, *entries(1, 9), vote=vote(3, "ben"))
        opened.durable(1)
    for _ in range(3):
        with beneath(fail(kind, name, 1, code)), pytest.raises(StoreRefused) as refused:
            Disk(tmp_path, node_id="ana")
        assert not isinstance(refused.value, StoreDamaged)
        assert str(refused.value).startswith(f"{tmp_path}/{name.removesuffix('-wal')} cannot be used: ")
        advice = "Make room on this disk" if code == FULL else "See whether this disk is full"
        assert str(refused.value).endswith(", then start the node again.") and advice in str(refused.value)
    with disk(tmp_path, node_id="ana") as after:
        assert (after.recovered.entries, after.recovered.hard_state) == (entries(1, 9), vote(3, "ben"))
        assert after.store.incarnation in (2, 3)


# --- a disk that stalls ---


def test_a_stalled_disk_is_seen_and_waited_for(tmp_path: Path) -> None:
    """The log's sync hangs (here: until it is told otherwise). Nothing is promised meanwhile; the table is written and
    read; what queues up is counted. Then all of it is durable, and the longest commit is remembered.
    """
    hanging, go_on = Signal(), Signal()

    def rule(call: Call) -> int:
        if (call.kind, call.name) == ("sync", "log.db-wal") and armed.is_set():
            hanging.set()
            go_on.wait(WAIT_S)
        return 0

    armed = Signal()
    with beneath(rule), disk(tmp_path, node_id="ana") as opened:
        opened.persist(1, entry(1))
        opened.durable(1)
        assert opened.store.figures().commit_under_way_ms == 0.0
        armed.set()
        opened.persist(2, entry(2, data=bytes(1_000)))
        assert hanging.wait(WAIT_S)
        for token in (3, 4, 5):
            opened.persist(token, entry(token, data=bytes(1_000)))
        opened.store.perform(WriteLedger(ledger_write(1, task("a", finished=1))))
        assert opened.next(LedgerWritten) == LedgerWritten(1)
        opened.store.perform(LoadRows(1, [TaskId("a")]))
        assert opened.next(RowsLoaded).rows == [task("a", finished=1)]
        figures = opened.store.figures()
        assert (figures.log_queued, figures.bytes_queued, figures.commits) == (3, 3_000, 1)
        assert figures.commit_under_way_ms > 0.0
        assert opened.events.empty()
        armed.clear()
        go_on.set()
        opened.durable(5)
        after = opened.store.figures()
        assert (after.log_queued, after.bytes_queued, after.commit_under_way_ms) == (0, 0, 0.0)
        assert after.slowest_commit_ms >= figures.commit_under_way_ms


def test_closing_does_not_wait_for_a_disk_that_hangs(tmp_path: Path) -> None:
    """The process can end; the directory stays claimed as long as it lives."""
    hanging, go_on, armed = Signal(), Signal(), Signal()

    def rule(call: Call) -> int:
        if (call.kind, call.name) == ("sync", "log.db-wal") and armed.is_set():
            hanging.set()
            go_on.wait(WAIT_S)
        return 0

    with beneath(rule):
        opened = Disk(tmp_path, node_id="ana")
        armed.set()
        opened.persist(1, entry(1))
        assert hanging.wait(WAIT_S)
        opened.store.close(timeout_s=0.01)
        with pytest.raises(StoreRefused, match="in use by process"):
            Disk(tmp_path, node_id="ana")
        armed.clear()
        go_on.set()
        opened.store.close()
    assert recovered_from_ana(tmp_path) == [entry(1)]


def recovered_from_ana(path: Path) -> list[object]:
    with disk(path, node_id="ana") as opened:
        return list(opened.recovered.entries)


# --- more than a disk can take ---


def test_bytes_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing takes effects from the queue. One large batch may wait; the next one on top of it is too much."""
    monkeypatch.setattr(work_queue, "QUEUED_BYTES_MAX", 10_000)
    with disk(tmp_path, node_id="ana", started=False) as stuck:
        stuck.persist(1, entry(1, data=bytes(30_000)))
        assert stuck.events.empty()
        stuck.persist(2)
        assert stuck.events.empty()
        stuck.persist(3, entry(2, data=b"x"))
        reason = stuck.next(DiskFailed).reason
        assert reason.startswith(f"Keeping up with {tmp_path} failed: 30001 bytes wait for the disk.")


def test_bytes_are_counted_where_they_lie(tmp_path: Path) -> None:
    """Entries, records and events; and none once they are taken."""
    with disk(tmp_path, node_id="ana", started=False) as stuck:
        stuck.persist(1, entry(1, data=bytes(100)), entry(2, data=bytes(20)))
        rows = [task("a", record=bytes(3_000)), task("b", record=bytes(400))]
        stuck.store.perform(WriteLedger(ledger_write(2, *rows, events=((1, bytes(50)),))))
        assert stuck.store.figures().bytes_queued == 3_570
        stuck.store.start()
        stuck.events.get(timeout=WAIT_S)
        stuck.events.get(timeout=WAIT_S)
        assert stuck.store.figures().bytes_queued == 0


# --- reads ---


def _table(path: Path) -> None:
    with disk(path, node_id="ana") as opened:
        rows = [task(f"t{number:03}", finished=number, record=bytes(3_000)) for number in range(1, 101)]
        opened.store.perform(WriteLedger(ledger_write(1, *rows, events=((1, b"events"),))))
        opened.next(LedgerWritten)


def _once(kind: str, name: str, code: int, *, times: int, after: Signal) -> Rule:
    """So many failures from the moment on that `after` is set."""
    left = times

    def rule(call: Call) -> int:
        nonlocal left
        if (call.kind, call.name) == (kind, name) and after.is_set() and left:
            left -= 1
            return code
        return 0

    return rule


@pytest.mark.parametrize("kind", ["read", "open"])
@pytest.mark.parametrize("effect", [LoadRows(1, []), LoadHistory(1, 0), OpenSnapshot(1)])
def test_what_passes_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, effect: LoadRows | LoadHistory | OpenSnapshot
) -> None:
    """Somebody holds a lock, or no file descriptor is left for a moment. The read is done as soon as it can be."""
    monkeypatch.setattr(reader, "RETRY_PAUSE_S", 0.0)
    _table(tmp_path)
    started = Signal()
    code = BUSY if kind == "read" else CANTOPEN
    with beneath(_once(kind, "ledger-1.db", code, times=TRIES_MAX - 1, after=started)):
        opened = Disk(tmp_path, node_id="ana")
        started.set()
        opened.store.perform(effect)
        assert not isinstance(opened.events.get(timeout=WAIT_S), DiskFailed)
        opened.store.close()
        assert opened.events.empty()


def test_a_lock_that_is_never_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot that cannot be opened or read is gone, and will be asked for again; the node goes on. A question that
    nobody can answer means that this node's table is of no use.
    """
    monkeypatch.setattr(reader, "RETRY_PAUSE_S", 0.0)
    _table(tmp_path)
    started = Signal()
    with beneath(_once("read", "ledger-1.db", BUSY, times=10_000, after=started)):
        opened = Disk(tmp_path, node_id="ana")
        opened.store.perform(OpenSnapshot(1))
        opened.next(SnapshotOpened)
        started.set()
        opened.store.perform(ReadSnapshot(1, "", 1 << 20))
        opened.store.perform(OpenSnapshot(2))
        for transfer in (1, 2):
            assert opened.next(SnapshotRead) == SnapshotRead(transfer, [], [], "!gone")
        opened.persist(1, entry(2))
        opened.durable(1)
        opened.store.perform(LoadRows(3, []))
        reason = opened.next(DiskFailed).reason
        assert reason.startswith(f"Reading {tmp_path}/ledger-1.db failed: database is locked (SQLITE_BUSY)")
        opened.store.close()


def test_a_table_that_cannot_be_read_stops_the_node(tmp_path: Path) -> None:
    """EIO is not waited for: the page is gone, and who asks would be told nothing, or something old."""
    _table(tmp_path)
    started = Signal()
    with beneath(_once("read", "ledger-1.db", IOERR_READ, times=1, after=started)):
        opened = Disk(tmp_path, node_id="ana")
        started.set()
        opened.store.perform(LoadRows(1, []))
        reason = opened.next(DiskFailed).reason
        assert reason.startswith(f"Reading {tmp_path}/ledger-1.db failed: disk I/O error (SQLITE_IOERR_READ)")
        opened.persist(1, entry(1))
        opened.store.close()
        assert opened.events.empty()


def test_a_read_that_is_under_way_at_close_is_no_failure(tmp_path: Path) -> None:
    """The process is told to stop while a page of the table is on its way from the disk."""
    _table(tmp_path)
    reading, go_on, started = Signal(), Signal(), Signal()

    def rule(call: Call) -> int:
        if (call.kind, call.name) == ("read", "ledger-1.db") and started.is_set():
            reading.set()
            go_on.wait(WAIT_S)
        return 0

    with beneath(rule):
        opened = Disk(tmp_path, node_id="ana")
        started.set()
        opened.store.perform(LoadRows(1, []))
        assert reading.wait(WAIT_S)
        opened.store.close(timeout_s=0.01)
        go_on.set()
        opened.store.close()
    while not opened.events.empty():
        assert not isinstance(opened.events.get(), DiskFailed)


def _rotten(data_dir: Path) -> str:
    """The records of finished tasks have rotted; a start does not read them, but somebody has asked for one."""
    _table(data_dir)
    data = (data_dir / "ledger-1.db").read_bytes()
    (data_dir / "ledger-1.db").write_bytes(data.replace(bytes(3_000), bytes(2_999) + b"\1"))
    with disk(data_dir, node_id="ana") as opened:
        opened.store.perform(LoadRows(1, [TaskId("t007")]))
        return opened.next(DiskFailed).reason


def test_a_damaged_row_names_the_file_and_what_to_do(tmp_path: Path) -> None:
    reason = _rotten(tmp_path)
    assert f"{tmp_path}/ledger-1.db is damaged: task t007 is not as it was written. Start the node again" in reason


def test_what_was_found_damaged_while_the_node_ran_is_known_to_the_next_start(tmp_path: Path) -> None:
    """Otherwise it would start from it again and again, and fall at each question. It is set aside, note and all."""
    _rotten(tmp_path / "ana")
    for _ in range(2):
        with pytest.raises(StoreDamaged, match=r"was found damaged while the node ran: .*task t007 is not as it was"):
            Disk(tmp_path / "ana", node_id="ana")
    aside = set_aside(tmp_path / "ana", "task t007 is not as it was written", "at night")
    assert "t007" in (aside / "damage.txt").read_text()
    with disk(tmp_path / "ana", node_id="ana") as again:
        assert (again.store.rejoining, again.recovered.finished) == (True, [])


def test_an_only_voter_may_go_on_with_what_is_left(tmp_path: Path) -> None:
    """There are no peers to recover from: its operator takes the note away, and loses one result instead of all."""
    _rotten(tmp_path)
    (tmp_path / "damage.txt").unlink()
    with disk(tmp_path, node_id="ana") as again:
        assert len(again.recovered.finished) == 100


def test_a_disk_that_only_fails_is_not_noted_as_damaged(tmp_path: Path) -> None:
    """EIO on a read: with the disk back, the node starts from all it had."""
    _table(tmp_path)
    started = Signal()
    with beneath(_once("read", "ledger-1.db", IOERR_READ, times=1, after=started)):
        opened = Disk(tmp_path, node_id="ana")
        started.set()
        opened.store.perform(LoadRows(1, []))
        opened.next(DiskFailed)
        opened.store.close()
    with disk(tmp_path, node_id="ana") as again:
        assert len(again.recovered.finished) == 100
