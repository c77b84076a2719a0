"""Old copies: files that are perfectly good, and not the ones this node made its last promises in.

An operator restores one file of a backup, a volume is rolled back under one of them, a disk forgets what it confirmed.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.effects import InstallSnapshot, LoadRows, StageSnapshot, TrimLog, WriteLedger
from mesh.events import LedgerWritten, RowsLoaded, SnapshotInstalled
from mesh.ids import LogIndex, Term
from mesh.storage.directory import peek, write_identity
from mesh.storage.faults import StoreDamaged, StoreRefused
from mesh.storage.ledger_store import LedgerStore
from mesh.storage.log_store import LogStore
from mesh.storage.store import Store
from mesh.storage.witness import Counted, Witness, refuse_older
from tests.storage.disk import Disk, disk, entries, entry, ledger_write, mark, task, vote

FILES = ("log.db", "ledger-1.db", "identity.json")


def _stopped(tmp_path: Path, starts: int) -> Path:
    """ana's directory after so many starts, each stopped in good order; the files of each are kept beside it."""
    for start in range(1, starts + 1):
        with disk(tmp_path / "ana", node_id="ana") as opened:
            opened.persist(1, entry(start), vote=vote(start, "ben"))
            opened.durable(1)
            opened.store.perform(WriteLedger(ledger_write(start)))
            opened.next(LedgerWritten)
        shutil.copytree(tmp_path / "ana", tmp_path / f"backup {start}")
    return tmp_path / "ana"


def _restore(data_dir: Path, start: int, *names: str) -> None:
    for name in names:
        shutil.copy(data_dir.parent / f"backup {start}" / name, data_dir / name)


def _backup(file: Path, to: Path) -> Path:
    """As `.backup` makes it of a file in use."""
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy)
    return to


def _put_back(backup: Path, file: Path) -> None:
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    shutil.copy(backup, file)


# --- each start is counted in all files ---


@pytest.mark.parametrize(
    ("names", "older", "newer"),
    [
        (("log.db",), "log.db", "ledger-1.db"),
        (("ledger-1.db",), "ledger-1.db", "log.db"),
        (("identity.json",), "identity.json", "log.db"),
        (("log.db", "ledger-1.db"), "log.db", "identity.json"),
        (("log.db", "identity.json"), "log.db", "ledger-1.db"),
        (("ledger-1.db", "identity.json"), "ledger-1.db", "log.db"),
    ],
)
def test_part_of_an_older_backup_is_refused_and_named(
    tmp_path: Path, names: tuple[str, ...], older: str, newer: str
) -> None:
    """Files of start 2 among those of start 5. Whoever reads it at night learns which file is old."""
    data_dir = _stopped(tmp_path, 5)
    _restore(data_dir, 2, *names)
    sentence = rf"^/.*/ana/{older} is an old copy: it was last used in start 2 of this node, and {newer} in start 5\."
    for _ in range(2):
        with pytest.raises(StoreDamaged, match=sentence) as refused:
            Disk(data_dir, node_id="ana")
        assert "Start the node again: unless it is the only voter" in str(refused.value)


@pytest.mark.parametrize(
    ("names", "older"),
    [(("log.db",), "log.db"), (("ledger-1.db",), "ledger-1.db"), (("log.db", "ledger-1.db"), "log.db")],
)
def test_the_backup_of_the_start_before_is_refused_too(tmp_path: Path, names: tuple[str, ...], older: str) -> None:
    """Nothing a crash leaves looks like it."""
    data_dir = _stopped(tmp_path, 3)
    _restore(data_dir, 2, *names)
    with pytest.raises(StoreDamaged, match=f"/{older} is an old copy: it was last used in start 2"):
        Disk(data_dir, node_id="ana")


def test_the_whole_directory_from_one_backup_cannot_be_told_from_within(tmp_path: Path) -> None:
    """What the docstring says is not noticed: peers do, who remember a later incarnation."""
    data_dir = _stopped(tmp_path, 5)
    _restore(data_dir, 2, *FILES)
    with disk(data_dir, node_id="ana") as restored:
        assert (restored.store.incarnation, restored.recovered.hard_state) == (3, vote(2, "ben"))


@pytest.mark.parametrize("counted", [0, 1, 2])
def test_a_crash_while_a_start_is_counted_costs_nothing(tmp_path: Path, counted: int) -> None:
    """The process dies after it was counted in the log, or in the log and the table; three times in a row."""
    data_dir = _stopped(tmp_path, 2)
    for crash in range(3):
        _count_half_a_start(data_dir, counted)
        with disk(data_dir, node_id="ana") as opened:
            assert opened.store.incarnation == 3 + crash + (counted > 0) * (crash + 1)
            assert opened.recovered.entries == entries(1, 2)


def _count_half_a_start(data_dir: Path, counted: int) -> None:
    identity = peek(data_dir)
    assert identity is not None
    log = LogStore(data_dir / "log.db", identity.owner)
    table = LedgerStore(data_dir / "ledger-1.db", identity.owner)
    for file in (log, table)[:counted]:
        file.count_start(identity.incarnation + 1)
    log.close()
    table.close()


@given(st.lists(st.sampled_from(["log", "table", "identity"]), max_size=12))
def test_no_run_of_crashes_is_taken_for_an_old_copy(deaths: list[str]) -> None:
    """Any number of starts that die after any of the three counts. Each first does what the last one left undone."""
    counts = {"log": 1, "table": 1, "identity": 1}

    def refuse() -> None:
        refuse_older(*(Counted(Path(name), counts[name]) for name in ("log", "table", "identity")))

    def count(until: str) -> None:
        goals = [counts["log"] + 1]
        if counts["log"] > counts["identity"]:
            goals.insert(0, counts["log"])
        for goal in goals:
            for name in counts:
                counts[name] = goal
                refuse()
                if name == until and goal == goals[-1]:
                    return

    for death in deaths:
        count(death)
        refuse()


def test_a_new_directory_may_begin_late(tmp_path: Path) -> None:
    """Seconds since 1970: an id that lost its directory comes back with a greater incarnation. Only the first start of
    a directory is like that, so that one restored from a backup shows.
    """
    for first, expected in ((1_700_000_000, 1_700_000_000), (1_800_000_000, 1_700_000_001)):
        store = Store(tmp_path / "ana", node_id="ana", cluster="c", post=lambda _: None, first_incarnation=first)
        assert store.incarnation == expected
        store.close()


# --- the table bears witness of the log ---


def test_an_older_log_of_the_same_start_is_refused(tmp_path: Path) -> None:
    """Entries 1 to 100 were durable when the table was written; the log that was put back ends at 40."""
    with disk(tmp_path / "ana", node_id="ana") as opened:
        opened.persist(1, *entries(1, 40))
        opened.durable(1)
        log = shutil.copytree(tmp_path / "ana", tmp_path / "copy")
        opened.persist(2, *entries(41, 100))
        opened.durable(2)
        opened.store.perform(WriteLedger(ledger_write(30)))
        opened.next(LedgerWritten)
        image = shutil.copytree(tmp_path / "ana", tmp_path / "image")
    for name in ("log.db", "log.db-wal"):
        shutil.copy(log / name, image / name)
    with pytest.raises(
        StoreDamaged,
        match=r"image/log\.db is older than ledger-1\.db, or has lost its end: it ends at entry 40, after entry 100",
    ):
        Disk(image, node_id="ana")


def test_a_write_ahead_log_that_is_gone_is_noticed(tmp_path: Path) -> None:
    """All commits since the last checkpoint went with it. So did the count of the start, if there was none since."""
    with disk(tmp_path / "ana", node_id="ana"):
        pass
    with disk(tmp_path / "ana", node_id="ana") as opened:
        opened.persist(1, *entries(1, 10))
        opened.durable(1)
        image = shutil.copytree(tmp_path / "ana", tmp_path / "image")
    (image / "log.db-wal").unlink()
    with pytest.raises(StoreDamaged, match=r"log\.db is an old copy: it was last used in start 1 of this node"):
        Disk(image, node_id="ana")


def test_a_write_ahead_log_that_is_gone_after_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    """Eight megabytes of entries were copied into the database meanwhile, and the count of the start with them."""
    with disk(tmp_path / "ana", node_id="ana") as opened:
        for token in range(1, 5):
            opened.persist(token, entry(token, data=bytes(2_000_000)))
            opened.durable(token)
        opened.persist(5, entry(5), vote=vote(7, "ben"))
        opened.durable(5)
        opened.store.perform(WriteLedger(ledger_write(3)))
        opened.next(LedgerWritten)
        image = shutil.copytree(tmp_path / "ana", tmp_path / "image")
    (image / "log.db-wal").unlink()
    with pytest.raises(
        StoreDamaged, match=r"log\.db is older than ledger-1\.db.*: it stands in term 0, after term 7 was"
    ):
        Disk(image, node_id="ana")


def test_an_orderly_stop_is_witnessed_to_the_last_vote(tmp_path: Path) -> None:
    """The table is not written after the vote for eva, but when the store is closed."""
    with disk(tmp_path / "ana", node_id="ana") as opened:
        opened.persist(1, *entries(1, 10), vote=vote(4))
        opened.durable(1)
        opened.store.perform(WriteLedger(ledger_write(10)))
        opened.next(LedgerWritten)
        log = shutil.copytree(tmp_path / "ana", tmp_path / "copy")
        opened.persist(2, vote=vote(4, "eva"))
        opened.durable(2)
    for name in ("log.db", "log.db-wal"):
        shutil.copy(log / name, tmp_path / "ana" / name)
    with pytest.raises(StoreDamaged, match="it has lost the vote for eva in term 4"):
        Disk(tmp_path / "ana", node_id="ana")


def test_a_log_that_a_new_leader_cut_back_is_not_older(tmp_path: Path) -> None:
    """ana votes in term 9 with entries up to 100 of term 7; the leader's first append brings entry 91 of term 6 and no
    more. Term as before, last term lower, last index lower: and nothing was lost.
    """
    with disk(tmp_path / "ana", node_id="ana") as opened:
        opened.persist(1, *entries(1, 90, term=5), *entries(91, 100, term=7), vote=vote(9, "ben"))
        opened.durable(1)
        opened.store.perform(WriteLedger(ledger_write(90, term=5)))
        opened.next(LedgerWritten)
        opened.persist(2, entry(91, term=6), truncate_from=91)
        opened.durable(2)
        image = shutil.copytree(tmp_path / "ana", tmp_path / "image")
    for data_dir in (image, tmp_path / "ana"):
        with disk(data_dir, node_id="ana") as again:
            assert again.recovered.entries == [*entries(1, 90, term=5), entry(91, term=6)]


def test_a_log_from_before_the_cut_is_older_though_it_is_longer(tmp_path: Path) -> None:
    """It would bring back entries that were overruled."""
    with disk(tmp_path / "ana", node_id="ana") as opened:
        opened.persist(1, *entries(1, 100, term=5), vote=vote(9, "ben"))
        opened.durable(1)
        log = shutil.copytree(tmp_path / "ana", tmp_path / "copy")
        opened.persist(2, entry(91, term=9), truncate_from=91)
        opened.durable(2)
        opened.store.perform(WriteLedger(ledger_write(90, term=5)))
        opened.next(LedgerWritten)
    for name in ("log.db", "log.db-wal"):
        shutil.copy(log / name, tmp_path / "ana" / name)
    with pytest.raises(StoreDamaged, match="it ends at entry 100, after entry 91 was durable"):
        Disk(tmp_path / "ana", node_id="ana")


def test_a_log_that_starts_anew_after_an_installed_table_is_not_older(tmp_path: Path) -> None:
    """It had 100 entries, the table from the leader stands at 60 on another branch."""
    with disk(tmp_path / "ana", node_id="ana") as opened:
        opened.persist(1, *entries(1, 100), vote=vote(3))
        opened.durable(1)
        opened.store.perform(WriteLedger(ledger_write(50)))
        opened.next(LedgerWritten)
        opened.store.perform(StageSnapshot(1, [task("x")], [], first=True))
        opened.store.perform(InstallSnapshot(1, mark(60, term=2)))
        opened.next(SnapshotInstalled)
        opened.store.perform(LoadRows(1, []))
        opened.next(RowsLoaded)  # The reader has removed the old table by now.
        image = shutil.copytree(tmp_path / "ana", tmp_path / "image")
    for data_dir in (image, tmp_path / "ana"):
        with disk(data_dir, node_id="ana") as again:
            assert (again.recovered.entries, again.recovered.mark) == ([], mark(60, term=2))


LATER = st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 2), st.sampled_from([None, "ben"]))


@given(LATER, st.lists(st.sampled_from(["append", "cut", "term", "vote"]), max_size=8))
def test_whatever_a_log_goes_through_it_never_counts_as_older(
    state: tuple[int, int, int, str | None], steps: list[str]
) -> None:
    """And every one of its former states does, unless nothing was promised since."""
    cuts, last, term, voted_for = state
    states = [Witness(cuts, last, term, voted_for)]
    for step in steps:
        match step:
            case "append":
                last += 1
            case "cut" if last:
                cuts, last = cuts + 1, last - 1
            case "term":
                term, voted_for = term + 1, None
            case "vote":
                voted_for = voted_for or "ben"
        states.append(Witness(cuts, last, term, voted_for))
    for at, seen in enumerate(states):
        assert not any(seen.what_is_gone_from(log) for log in states[at:])
        assert all(seen.what_is_gone_from(log) for log in states[:at] if log != seen)


# --- older tables of the same start ---


def _older_table(tmp_path: Path, *, first_index: int) -> Path:
    """ana died with a log of 1 to 100 and a table at 90. Somebody put the table back as it was at 10."""
    with disk(tmp_path / "ana", node_id="ana") as opened:
        opened.persist(1, *entries(1, 100))
        opened.durable(1)
        opened.store.perform(WriteLedger(ledger_write(10, task("a"))))
        opened.next(LedgerWritten)
        backup = _backup(tmp_path / "ana" / "ledger-1.db", tmp_path / "backup")
        opened.store.perform(WriteLedger(ledger_write(90, task("b"))))
        opened.next(LedgerWritten)
        opened.store.perform(TrimLog(LogIndex(first_index), Term(int(first_index > 1))))
        opened.persist(2, entry(101))
        opened.durable(2)
        image = shutil.copytree(tmp_path / "ana", tmp_path / "image")
    _put_back(backup, image / "ledger-1.db")
    return image


def test_a_table_older_than_the_start_of_the_log_is_refused(tmp_path: Path) -> None:
    """Entries 11 to 50 are in neither file (NATS PR 7620)."""
    image = _older_table(tmp_path, first_index=51)
    with pytest.raises(
        StoreDamaged,
        match=r"image/ledger-1\.db is older than log\.db: it stands at entry 10, and the log starts after entry 50\.",
    ):
        Disk(image, node_id="ana")


@pytest.mark.parametrize("first_index", [1, 11])
def test_an_older_table_that_the_log_covers_is_replayed(tmp_path: Path, first_index: int) -> None:
    """Entries 11 to 101 are applied again; `test_forced` has a whole node do it and compares what comes out."""
    with disk(_older_table(tmp_path, first_index=first_index), node_id="ana") as opened:
        assert (opened.recovered.mark, opened.recovered.live) == (mark(10), [task("a")])
        assert opened.recovered.entries == entries(first_index, 101)


def test_an_empty_table_under_a_trimmed_log_is_refused(tmp_path: Path) -> None:
    with disk(tmp_path / "ana", node_id="ana") as opened:
        backup = _backup(tmp_path / "ana" / "ledger-1.db", tmp_path / "backup")
        opened.persist(1, *entries(1, 100))
        opened.durable(1)
        opened.store.perform(WriteLedger(ledger_write(90)))
        opened.next(LedgerWritten)
        opened.store.perform(TrimLog(LogIndex(51), Term(1)))
        opened.persist(2, entry(101))
        opened.durable(2)
        image = shutil.copytree(tmp_path / "ana", tmp_path / "image")
    _put_back(backup, image / "ledger-1.db")
    with pytest.raises(
        StoreDamaged, match=r"ledger-1\.db is older than log\.db: it is empty, and the log starts after"
    ):
        Disk(image, node_id="ana")


# --- files in the wrong place (consensus D15) ---


@pytest.mark.parametrize("name", ["log.db", "ledger-1.db", "identity.json"])
def test_files_swapped_between_two_nodes_are_refused_and_can_be_put_back(tmp_path: Path, name: str) -> None:
    """Nothing is damaged, and nothing is set aside for it: with the files back in place both nodes start."""
    for node_id in ("ana", "ben"):
        with disk(tmp_path / node_id, node_id=node_id) as opened:
            opened.persist(1, entry(1))
            opened.durable(1)

    def swap() -> None:
        (tmp_path / "ana" / name).rename(tmp_path / "kept")
        (tmp_path / "ben" / name).rename(tmp_path / "ana" / name)
        (tmp_path / "kept").rename(tmp_path / "ben" / name)

    swap()
    for ours, theirs in (("ana", "ben"), ("ben", "ana")):
        where = ours if name == "identity.json" else rf"{ours}/{name}"
        with pytest.raises(StoreRefused, match=f"/{where} belongs to node {theirs}, not to {ours}") as refused:
            Disk(tmp_path / ours, node_id=ours)
        assert not isinstance(refused.value, StoreDamaged)
    swap()
    for node_id in ("ana", "ben"):
        with disk(tmp_path / node_id, node_id=node_id) as opened:
            assert opened.recovered.entries == [entry(1)]


@pytest.mark.parametrize("name", ["log.db", "ledger-1.db"])
def test_a_file_of_an_earlier_directory_of_the_same_node_is_refused(tmp_path: Path, name: str) -> None:
    for where in ("ana", "ana, before"):
        with disk(tmp_path / where, node_id="ana"):
            pass
    shutil.copy(tmp_path / "ana, before" / name, tmp_path / "ana" / name)
    with pytest.raises(StoreRefused, match=rf"/ana/{name} belongs to another data directory of ana"):
        Disk(tmp_path / "ana", node_id="ana")


def test_swapped_folders_are_refused(tmp_path: Path) -> None:
    for node_id in ("ana", "ben"):
        with disk(tmp_path / node_id, node_id=node_id):
            pass
    (tmp_path / "ana").rename(tmp_path / "kept")
    (tmp_path / "ben").rename(tmp_path / "ana")
    with pytest.raises(StoreRefused, match="/ana belongs to node ben, not to ana"):
        Disk(tmp_path / "ana", node_id="ana")


def test_an_identity_rewritten_by_hand_is_refused(tmp_path: Path) -> None:
    """Also one in which a bit has flipped and JSON is none the wiser."""
    with disk(tmp_path, node_id="ana"):
        pass
    text = (tmp_path / "identity.json").read_text()
    (tmp_path / "identity.json").write_text(text.replace('"rejoining":false', '"rejoining":true'))
    with pytest.raises(StoreDamaged, match=r"identity\.json is damaged: it is not as it was written"):
        Disk(tmp_path, node_id="ana")


def test_nothing_is_removed_from_a_directory_that_is_refused(tmp_path: Path) -> None:
    """The log and table of start 1 were put back; a table installed since, which they do not know, stays."""
    with disk(tmp_path / "ana", node_id="ana"):
        pass
    shutil.copytree(tmp_path / "ana", tmp_path / "backup")
    with disk(tmp_path / "ana", node_id="ana") as opened:
        opened.persist(1, entry(1))
        opened.durable(1)
        opened.store.perform(StageSnapshot(1, [task("x")], [], first=True))
        opened.store.perform(InstallSnapshot(1, mark(60)))
        opened.next(SnapshotInstalled)
    for name in ("log.db", "ledger-1.db"):
        shutil.copy(tmp_path / "backup" / name, tmp_path / "ana" / name)
    with pytest.raises(StoreDamaged, match=r"log\.db is an old copy: it was last used in start 1"):
        Disk(tmp_path / "ana", node_id="ana")
    with closing(sqlite3.connect(tmp_path / "ana" / "ledger-2.db")) as kept:
        assert kept.execute("SELECT task_id FROM tasks").fetchall() == [("x",)]


def test_recovering_twice_is_the_same(tmp_path: Path) -> None:
    """A start writes nothing but its count."""
    data_dir = _stopped(tmp_path, 2)
    identity = peek(data_dir)
    assert identity is not None
    write_identity(data_dir, identity)
    with disk(data_dir, node_id="ana", started=False) as first:
        found = first.recovered
    with disk(data_dir, node_id="ana", started=False) as second:
        assert second.recovered == found
