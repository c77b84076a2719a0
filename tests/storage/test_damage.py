"""Bits rot. A node that starts from what is left of its promises can lose what a quorum had accepted (consensus D3).

A running store is copied as it stands: what a crash would leave. Then one bit of the copy is flipped.
"""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mesh.durable import Recovered
from mesh.effects import LoadHistory, LoadRows, OpenSnapshot, ReadSnapshot, WriteLedger
from mesh.events import DiskFailed, LedgerWritten, SnapshotOpened
from mesh.ids import TaskId
from mesh.storage.faults import StoreDamaged, StoreRefused
from mesh.storage.write_ahead import lost_commits
from tests.storage.disk import disk, entries, entry, ledger_write, recovered_from, task, vote

WAL_HEADER = 32
FRAME = 24 + 4_096


def _crash_image(tmp_path: Path) -> Path:
    """Ten commits in the write-ahead log, the last of them entry 9, which the table has not heard of."""
    image = tmp_path / "image"
    with disk(tmp_path / "n1") as opened:
        opened.persist(1, vote=vote(3, "n2"))
        for index in range(1, 9):
            opened.persist(1 + index, entry(index, term=3, data=bytes([index]) * 100))
            opened.durable(1 + index)
        rows = [task(f"live {n}") for n in range(20)] + [task(f"finished {n}", finished=n) for n in range(1, 20)]
        opened.store.perform(WriteLedger(ledger_write(5, *rows, term=3, events=((5, b"events"),))))
        opened.next(LedgerWritten)
        opened.persist(10, entry(9, term=3, data=bytes([9]) * 100))
        opened.durable(10)
        shutil.copytree(tmp_path / "n1", image)
    return image


def _clean_image(tmp_path: Path) -> Path:
    """The same after an orderly stop: everything is in the database files, nothing in a write-ahead log."""
    image = _crash_image(tmp_path)
    recovered_from(image)
    assert sorted(file.name for file in image.iterdir()) == ["identity.json", "ledger-1.db", "lock", "log.db"]
    return image


def _flip(file: Path, offset: int, bit: int = 0) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        (byte,) = opened.read(1)
        opened.seek(offset)
        opened.write(bytes([byte ^ (1 << bit)]))


def _copy(image: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(image, to)
    return to


def test_a_crash_loses_nothing(tmp_path: Path) -> None:
    image = _crash_image(tmp_path)
    assert (image / "log.db-wal").stat().st_size > 10 * FRAME
    found = recovered_from(image)
    assert (found.hard_state, [entry.index for entry in found.entries]) == (vote(3, "n2"), list(range(1, 10)))
    assert (len(found.live), len(found.finished)) == (20, 19)


def test_a_write_ahead_log_cut_off_anywhere_is_a_crash(tmp_path: Path) -> None:
    """The commit under way was never answered. What comes before it is whole; nothing is refused."""
    wal = _crash_image(tmp_path) / "log.db-wal"
    whole = wal.read_bytes()
    for size in range(0, len(whole), 1_021):
        wal.write_bytes(whole[:size])
        assert not lost_commits(wal), size


def test_pages_of_the_last_commit_that_never_reached_the_disk_are_a_crash(tmp_path: Path) -> None:
    """They may be written in any order before the sync: the end can be there and the beginning not."""
    image = _crash_image(tmp_path)
    last_two = (image / "log.db-wal").stat().st_size - 2 * FRAME
    _flip(image / "log.db-wal", last_two + 100)
    found = recovered_from(image)
    assert [entry.index for entry in found.entries] == list(range(1, 9))


def test_no_bit_of_a_durable_commit_can_be_lost_unnoticed(tmp_path: Path) -> None:
    """SQLite would forget everything from the flipped bit on, and say nothing."""
    wal = _crash_image(tmp_path) / "log.db-wal"
    last_commit = wal.stat().st_size - 2 * FRAME
    offsets = [*range(WAL_HEADER), *range(WAL_HEADER, last_commit, 1_597)]
    for start in range(WAL_HEADER, last_commit, FRAME):
        offsets += range(start, start + 24, 5)
    for offset in offsets:
        _flip(wal, offset, bit=offset % 8)
        assert lost_commits(wal), offset
        _flip(wal, offset, bit=offset % 8)
    assert not lost_commits(wal)


def test_frames_from_before_the_log_was_begun_anew_mean_nothing(tmp_path: Path) -> None:
    """After a checkpoint SQLite writes over the old frames from the front; those still there are older."""
    with disk(tmp_path / "n1") as opened:
        for token in range(1, 5):
            opened.persist(token, entry(token, data=bytes(3_000_000)))
            opened.durable(token)
        opened.persist(5, entry(5))
        opened.durable(5)
        wal = tmp_path / "n1" / "log.db-wal"
        assert wal.stat().st_size > 2_000_000
        image = shutil.copytree(tmp_path / "n1", tmp_path / "image")
    assert not lost_commits(image / "log.db-wal")
    _flip(image / "log.db-wal", 1_500_000)
    assert not lost_commits(image / "log.db-wal")
    assert len(recovered_from(image).entries) == 5


@pytest.mark.parametrize("name", ["log.db-wal", "ledger-1.db-wal"])
def test_a_node_with_a_damaged_write_ahead_log_is_refused_each_time(tmp_path: Path, name: str) -> None:
    """Looking at it must not repair it: the second start is refused as the first was."""
    image = _crash_image(tmp_path)
    if name == "ledger-1.db-wal":
        with disk(image) as opened:
            for index in (6, 7, 8):
                opened.store.perform(WriteLedger(ledger_write(index, task("more"), term=3)))
                opened.next(LedgerWritten)
            image = shutil.copytree(image, tmp_path / "image 2")
    _flip(image / name, WAL_HEADER + 200)
    for _ in range(2):
        with pytest.raises(StoreDamaged, match=f"{name} is damaged before its end"):
            recovered_from(image)


def _same_or_refused(image: Path, work: Path, name: str, stride: int) -> tuple[int, int]:
    """Flip a bit every `stride` bytes. Returns how often nothing was lost, and how often the start was refused."""
    expected = recovered_from(_copy(image, work))
    same = refused = 0
    for offset in range(0, (image / name).stat().st_size, stride):
        _flip(_copy(image, work) / name, offset, bit=offset % 8)
        try:
            found: Recovered | None = recovered_from(work)
        except StoreRefused:
            refused += 1
            continue
        assert found == expected, f"bit {offset % 8} of byte {offset}"
        same += 1
    return same, refused


@pytest.mark.parametrize("name", ["log.db", "ledger-1.db"])
def test_no_bit_of_a_database_can_change_what_is_recovered(tmp_path: Path, name: str) -> None:
    """Either it was a bit that holds nothing, or the start is refused."""
    same, refused = _same_or_refused(_clean_image(tmp_path), tmp_path / "work", name, stride=1_013)
    assert same > 0 and refused > 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"entry 42", "entry 42 is not as it was written"),
        (b"record of live", "task live is not as it was written"),
        (b"digest 60", "its mark is not as it was written"),
    ],
)
def test_a_flipped_bit_in_a_record(tmp_path: Path, content: bytes, sentence: str) -> None:
    with disk(tmp_path) as opened:
        opened.persist(1, *entries(1, 60))
        opened.durable(1)
        opened.store.perform(WriteLedger(ledger_write(60, task("live"))))
        opened.next(LedgerWritten)
    for file in (tmp_path / "log.db", tmp_path / "ledger-1.db"):
        at = file.read_bytes().find(content)
        if at >= 0:
            _flip(file, at)
    with pytest.raises(StoreDamaged, match=sentence):
        recovered_from(tmp_path)


@pytest.mark.parametrize(
    "effect", [LoadRows(1, []), LoadRows(1, [TaskId("a")]), LoadHistory(1, 0), ReadSnapshot(1, "", 1)]
)
def test_a_damaged_row_is_never_passed_on(tmp_path: Path, effect: LoadRows | LoadHistory | ReadSnapshot) -> None:
    """A start does not read the records of finished tasks. Whoever does, checks: the node is then out of office."""
    with disk(tmp_path) as opened:
        opened.store.perform(WriteLedger(ledger_write(1, task("a", finished=1), events=((1, b"events of 1"),))))
        opened.next(LedgerWritten)
    for content in (b"record of a", b"events of 1"):
        _flip(tmp_path / "ledger-1.db", (tmp_path / "ledger-1.db").read_bytes().find(content))
    with disk(tmp_path) as opened:
        if isinstance(effect, ReadSnapshot):
            opened.store.perform(OpenSnapshot(1))
            opened.next(SnapshotOpened)
        opened.store.perform(effect)
        assert "not as" in opened.next(DiskFailed).reason
    assert opened.events.empty()


@pytest.mark.parametrize(
    ("name", "loss", "sentence"),
    [
        ("log.db", "DELETE FROM entries WHERE idx = 9", "it ends at 8, not at 9"),
        ("log.db", "DELETE FROM entries WHERE idx = 4", "entry 4 is missing"),
        ("log.db", "DELETE FROM entries WHERE idx = 1", "entry 1 is missing"),
        ("log.db", "DELETE FROM vote", "its vote is not as it was written"),
        ("log.db", "UPDATE run SET incarnation = 0", "its run is not as it was written"),
        ("log.db", "DROP TRIGGER tail_follows", "its tables are not as they were made"),
        ("ledger-1.db", "DELETE FROM tasks WHERE task_id = 'live 3'", "38 tasks of 39 are there"),
        ("ledger-1.db", "DELETE FROM tasks WHERE task_id = 'finished 7'", "38 tasks of 39 are there"),
        ("ledger-1.db", "UPDATE tasks SET finished = -1 WHERE task_id = 'finished 7'", "38 tasks of 39 are there"),
        ("ledger-1.db", "UPDATE tasks SET fingerprint = 0 WHERE task_id = 'finished 7'", "task finished 7 is not as"),
        ("ledger-1.db", "UPDATE tasks SET state = 0 WHERE task_id = 'live 3'", "task live 3 is not as"),
        ("ledger-1.db", "DELETE FROM mark", "39 tasks of 0 are there"),
    ],
)
def test_what_is_missing_or_other_than_written_is_noticed(tmp_path: Path, name: str, loss: str, sentence: str) -> None:
    """Losses that leave a perfectly good database."""
    image = _clean_image(tmp_path)
    with closing(sqlite3.connect(image / name)) as connection:
        connection.execute(loss)
        connection.commit()
    with pytest.raises(StoreDamaged, match=sentence):
        recovered_from(image)


FLIPS = [
    ("log.db", "entries", "data", "entry 6 is not as it was written"),
    ("log.db", "entries", "term", "entry 6 is not as it was written"),
    ("log.db", "entries", "kind", "entry 6 is not as it was written"),
    ("log.db", "entries", "crc", "entry 6 is not as it was written"),
    ("log.db", "entries", "idx", "entry 6 is missing"),
    ("log.db", "tail", "last", "has lost its end: it ends at entry 8, after entry 9"),
    ("log.db", "vote", "term", "its vote is not as it was written"),
    ("log.db", "vote", "voted_for", "its vote is not as it was written"),
    ("log.db", "vote", "crc", "its vote is not as it was written"),
    ("log.db", "start", "before_index", "its start is not as it was written"),
    ("log.db", "start", "before_term", "its start is not as it was written"),
    ("log.db", "owner", "node_id", "its owner is not as it was written"),
    ("log.db", "owner", "cluster", "its owner is not as it was written"),
    ("log.db", "owner", "created", "its owner is not as it was written"),
    ("log.db", "run", "incarnation", "its run is not as it was written"),
    ("log.db", "run", "ledger", "its run is not as it was written"),
    ("log.db", "run", "cuts", "its run is not as it was written"),
    ("ledger-1.db", "owner", "node_id", "its owner is not as it was written"),
    ("ledger-1.db", "owner", "created", "its owner is not as it was written"),
    ("ledger-1.db", "seen", "incarnation", "its seen is not as it was written"),
    ("ledger-1.db", "seen", "cuts", "its seen is not as it was written"),
    ("ledger-1.db", "seen", "last", "its seen is not as it was written"),
    ("ledger-1.db", "seen", "term", "its seen is not as it was written"),
    ("ledger-1.db", "seen", "voted_for", "its seen is not as it was written"),
    ("ledger-1.db", "mark", "rows", "its mark is not as it was written"),
    ("ledger-1.db", "mark", "key_sum", "its mark is not as it was written"),
    ("ledger-1.db", "mark", "data", "its mark is not as it was written"),
    ("ledger-1.db", "tasks", "state", "task live 5 is not as it was written"),
    ("ledger-1.db", "tasks", "capability", "task live 5 is not as it was written"),
    ("ledger-1.db", "tasks", "record", "task live 5 is not as it was written"),
    ("ledger-1.db", "tasks", "key_crc", "task live 5 is not as it was written"),
    ("ledger-1.db", "tasks", "finished", "is not as it was written"),
]


def _flipped(value: int | str | bytes | None) -> int | str | bytes:
    """The same with its lowest bit another."""
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1])
    if isinstance(value, str):
        return value[:-1] + chr(ord(value[-1]) ^ 1)
    return (value or 0) ^ 1


@pytest.mark.parametrize(("name", "table", "column", "sentence"), FLIPS)
def test_one_bit_of_each_kind_of_row(tmp_path: Path, name: str, table: str, column: str, sentence: str) -> None:
    """(consensus D3, NATS 7549) In a database without another fault; the finding names the file and says what to do."""
    image = _clean_image(tmp_path)
    with closing(sqlite3.connect(image / name)) as connection:
        connection.create_function("flipped", 1, _flipped)
        if table == "entries" and column == "idx":
            connection.execute("UPDATE entries SET idx = 106 WHERE idx = 6")
        else:
            where = {"entries": "WHERE idx = 6", "tasks": "WHERE task_id = 'live 5'"}.get(table, "")
            assert connection.execute(f"UPDATE {table} SET {column} = flipped({column}) {where}").rowcount == 1
        connection.commit()
    for _ in range(2):
        with pytest.raises(StoreDamaged, match=sentence) as refused:
            recovered_from(image)
        assert refused.value.finding.startswith(f"{image}/{name} is ")
        assert "Start the node again: unless it is the only voter" in str(refused.value)


@pytest.mark.parametrize("column", ["record", "state", "capability", "fingerprint"])
def test_one_bit_of_a_finished_task_is_noticed_at_the_latest_when_it_is_read(tmp_path: Path, column: str) -> None:
    """A start reads ids and fingerprints of finished tasks, a question reads the rest."""
    image = _clean_image(tmp_path)
    with closing(sqlite3.connect(image / "ledger-1.db")) as connection:
        connection.create_function("flipped", 1, _flipped)
        connection.execute(f"UPDATE tasks SET {column} = flipped({column}) WHERE task_id = 'finished 7'")
        connection.commit()
    try:
        with disk(image) as opened:
            opened.store.perform(LoadRows(1, [TaskId("finished 7")]))
            reason = opened.next(DiskFailed).reason
    except StoreDamaged as error:
        assert column == "fingerprint"
        reason = error.finding
    assert f"{image}/ledger-1.db is damaged: task finished 7 is not as it was written" in reason


def _page_headers(file: Path) -> list[int]:
    """Every byte of the header of the database, and of each page."""
    size = file.stat().st_size
    return [*range(112), *(page + at for page in range(4_096, size, 4_096) for at in range(12))]


@pytest.mark.parametrize("name", ["log.db", "ledger-1.db"])
def test_no_bit_of_a_page_header_can_change_what_is_recovered(tmp_path: Path, name: str) -> None:
    """Every fifth of them, each time another bit. Whatever is refused is refused as damaged, or as a file that cannot
    be used; never as empty, new, or somebody else's.
    """
    image = _clean_image(tmp_path)
    expected = recovered_from(_copy(image, tmp_path / "work"))
    damaged, others = 0, list[tuple[int, str]]()
    for count, offset in enumerate(_page_headers(image / name)[::5]):
        _flip(_copy(image, tmp_path / "work") / name, offset, bit=count % 8)
        try:
            found = recovered_from(tmp_path / "work")
        except StoreDamaged:
            damaged += 1
        except StoreRefused as refused:
            others.append((offset, str(refused)))
        else:
            assert found == expected, f"bit {count % 8} of byte {offset}"
    assert damaged > 10
    assert [other for other in others if f"{name} cannot be used" not in other[1]] == []


# --- torn files ---


@pytest.mark.parametrize("name", ["log.db", "ledger-1.db"])
def test_a_database_cut_off_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    """At every page, one byte before and one after, within the header, and to nothing: damaged, never new."""
    image = _clean_image(tmp_path)
    size = (image / name).stat().st_size
    sizes = {0, 1, 15, 16, 99, 100, 512, *(at + by for at in range(4_096, size + 1, 4_096) for by in (-1, 0, 1))}
    for cut in sorted(cut for cut in sizes if cut < size):
        with (_copy(image, tmp_path / "work") / name).open("r+b") as file:
            file.truncate(cut)
        with pytest.raises(StoreDamaged, match=name):
            recovered_from(tmp_path / "work")


@pytest.mark.parametrize("name", ["log.db-wal", "ledger-1.db-wal"])
def test_a_write_ahead_log_cut_off_anywhere_loses_nothing_that_was_witnessed(tmp_path: Path, name: str) -> None:
    """At every frame, and one byte before and after. The table has seen eight entries durable: with fewer the node does
    not start, whatever else is in order.
    """
    image = _crash_image(tmp_path)
    size = (image / name).stat().st_size
    frames = range(WAL_HEADER, size + 1, FRAME)
    sizes = {0, 1, WAL_HEADER - 1, *(at + by for at in frames for by in (-1, 0, 1))}
    outcomes, findings = [], []
    for cut in sorted(cut for cut in sizes if cut <= size):
        with (_copy(image, tmp_path / "work") / name).open("r+b") as file:
            file.truncate(cut)
        try:
            found = recovered_from(tmp_path / "work")
        except StoreDamaged as damage:
            outcomes.append(0)
            findings.append(damage.finding)
            continue
        assert [entry.index for entry in found.entries] in (list(range(1, 9)), list(range(1, 10)))
        assert found.hard_state == vote(3, "n2")
        outcomes.append(len(found.entries))
    assert all(name.removesuffix("-wal") in finding for finding in findings)
    assert outcomes == sorted(outcomes) and outcomes[0] == 0 and outcomes[-1] == 9


@pytest.mark.parametrize("name", ["log.db-wal", "ledger-1.db-wal"])
def test_a_write_ahead_log_that_is_missing_is_noticed(tmp_path: Path, name: str) -> None:
    """All that was never copied into the database goes with it; here, that is everything."""
    image = _crash_image(tmp_path)
    (image / name).unlink()
    with pytest.raises(StoreDamaged, match=name.removesuffix("-wal")):
        recovered_from(image)


def test_a_snapshot_with_rows_missing_is_not_completed(tmp_path: Path) -> None:
    """The node that receives it could not notice."""
    with disk(tmp_path) as opened:
        opened.store.perform(WriteLedger(ledger_write(1, *(task(f"t{n}") for n in range(20)))))
        opened.next(LedgerWritten)
        with closing(sqlite3.connect(tmp_path / "ledger-1.db")) as stranger:
            stranger.execute("DELETE FROM tasks WHERE task_id = 't7'")
            stranger.commit()
        opened.store.perform(OpenSnapshot(1))
        opened.next(SnapshotOpened)
        opened.store.perform(ReadSnapshot(1, "", 1 << 20))
        assert "19 tasks of 20 are there" in opened.next(DiskFailed).reason


# --- files that do not belong together --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["log.db", "ledger-1.db", "identity.json"])
@pytest.mark.parametrize(
    "spoil", [lambda _: b"", lambda data: b"\xff" * len(data), lambda data: data[: len(data) // 2]]
)
def test_a_spoiled_file_is_refused(tmp_path: Path, name: str, spoil: Callable[[bytes], bytes]) -> None:
    """Empty, overwritten, cut in half: never taken for a new one."""
    image = _clean_image(tmp_path)
    (image / name).write_bytes(spoil((image / name).read_bytes()))
    with pytest.raises(StoreRefused):
        recovered_from(image)


@pytest.mark.parametrize("name", ["log.db", "ledger-1.db"])
def test_tables_of_a_later_release_are_refused(tmp_path: Path, name: str) -> None:
    """And left alone: the later release can still start from them."""
    image = _clean_image(tmp_path)
    with (image / name).open("r+b") as file:
        file.seek(60)  # The user version and the application id (sqlite.org/fileformat2.html 1.3).
        file.write((3).to_bytes(4, "big") + bytes(4) + (3).to_bytes(4, "big"))
    before = (image / name).read_bytes()
    with pytest.raises(StoreRefused, match=r"later release \(tables 3, this one knows 2\)"):
        recovered_from(image)
    assert (image / name).read_bytes() == before
