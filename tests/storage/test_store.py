"""The data directory as a whole: whose it is, who holds it, and what a node finds there when it starts."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from mesh.durable import Recovered
from mesh.effects import WriteLedger
from mesh.events import DiskFailed, Event, LedgerWritten
from mesh.storage.database import connect
from mesh.storage.directory import new_identity, write_identity
from mesh.storage.faults import StoreDamaged, StoreRefused
from mesh.storage.log_store import LogStore
from mesh.storage.store import Store
from mesh.storage.work_queue import QUEUED_MAX
from tests.storage.disk import Disk, disk, entries, entry, ledger_write, mark, recovered_from, task, vote

EMPTY = Recovered(None, [], 0, None, [], [], 0)  # type: ignore[arg-type]


def _ignore(_: Event) -> None:
    pass


def test_a_fresh_directory_is_empty(tmp_path: Path) -> None:
    """Nothing was promised yet, and the directory is for its owner's eyes only."""
    data_dir = tmp_path / "deep" / "n1"
    with disk(data_dir) as fresh:
        assert fresh.recovered == EMPTY
        assert data_dir.stat().st_mode & 0o777 == 0o700


def test_each_start_is_another_incarnation(tmp_path: Path) -> None:
    """Also a start that came to nothing counts: no two runs ever speak under the same number."""
    seen = []
    for _ in range(3):
        store = Store(tmp_path, node_id="n1", cluster="mesh-1", post=_ignore)
        seen.append((store.incarnation, store.created))
        store.close()
    assert [incarnation for incarnation, _ in seen] == [1, 2, 3]
    assert len({created for _, created in seen}) == 1


def test_what_was_durable_is_there_after_a_restart(tmp_path: Path) -> None:
    """Term, vote, entries and table come back as they were written."""
    with disk(tmp_path) as before:
        before.persist(1, *entries(1, 3), vote=vote(2, "n3"))
        before.durable(1)
        write = ledger_write(2, task("a"), task("b", finished=1), task("c", finished=2))
        before.store.perform(WriteLedger(write))
        assert before.next(LedgerWritten) == LedgerWritten(2)
    with disk(tmp_path) as after:
        assert after.recovered == Recovered(
            hard_state=vote(2, "n3"),
            entries=entries(1, 3),
            before_term=0,  # type: ignore[arg-type]
            mark=mark(2),
            live=[task("a")],
            finished=[("b", 1_001), ("c", 1_002)],  # type: ignore[list-item]
            finished_last=2,
        )


def test_the_directory_of_another_node_is_refused(tmp_path: Path) -> None:
    """A node that takes another's directory would vote twice (consensus A5)."""
    with disk(tmp_path, node_id="n1"):
        pass
    with pytest.raises(StoreRefused, match="belongs to node n1, not to n2"):
        Disk(tmp_path, node_id="n2")


def test_the_directory_of_another_mesh_is_refused(tmp_path: Path) -> None:
    with disk(tmp_path, cluster="mesh-1"):
        pass
    with pytest.raises(StoreRefused, match="belongs to another mesh"):
        Disk(tmp_path, cluster="mesh-2")


def test_a_refused_stranger_leaves_no_trace(tmp_path: Path) -> None:
    """The owner starts as if nobody had been there."""
    with disk(tmp_path):
        pass
    with pytest.raises(StoreRefused):
        Disk(tmp_path, node_id="n2")
    with disk(tmp_path) as owner:
        assert owner.store.incarnation == 2


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """Whoever holds the directory is named; when it is closed, the next one may have it."""
    with disk(tmp_path), pytest.raises(StoreRefused, match=f"in use by process {os.getpid()}"):
        Disk(tmp_path)
    with disk(tmp_path) as second:
        assert second.store.incarnation == 2


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(StoreRefused, match="cannot be written: Not a directory"):
        Disk(tmp_path / "file" / "n1")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreRefused, match="cannot be written"):
        Disk(tmp_path)


def test_a_directory_of_a_read_only_file_system_is_refused() -> None:
    with pytest.raises(StoreRefused, match="/proc/mesh cannot be written"):
        Disk(Path("/proc/mesh"))


@pytest.mark.parametrize("name", ["log.db", "ledger-1.db"])
def test_a_directory_that_lost_a_file_is_refused(tmp_path: Path, name: str) -> None:
    """It never starts empty: what it promised is elsewhere believed (NATS 4410, 7566; consensus D4)."""
    with disk(tmp_path):
        pass
    (tmp_path / name).unlink()
    with pytest.raises(StoreDamaged, match="has lost its " + name):
        Disk(tmp_path)
    assert not (tmp_path / name).exists()


def test_a_log_without_an_identity_is_refused(tmp_path: Path) -> None:
    with disk(tmp_path):
        pass
    (tmp_path / "identity.json").unlink()
    with pytest.raises(StoreDamaged, match="lost its identity"):
        Disk(tmp_path)


def test_a_table_without_a_log_and_an_identity_is_refused(tmp_path: Path) -> None:
    with disk(tmp_path):
        pass
    (tmp_path / "identity.json").unlink()
    (tmp_path / "log.db").unlink()
    with pytest.raises(StoreDamaged, match=r"lost its identity\.json, but holds ledger-1\.db"):
        Disk(tmp_path)


def test_a_crash_while_the_directory_is_made_costs_nothing(tmp_path: Path) -> None:
    """The first start is counted last. Until then nothing was promised, and the next start goes on from there."""
    half = tmp_path / "half"
    half.mkdir()
    identity = new_identity("n1", "mesh-1", rejoining=False)
    write_identity(half, identity)
    LogStore(half / "log.db", identity.owner, may_be_new=True).close()
    with disk(half) as opened:
        assert opened.recovered == EMPTY
        assert (opened.store.incarnation, opened.store.created) == (1, identity.created)


def test_closing_finishes_what_was_asked_for(tmp_path: Path) -> None:
    """Fifty batches and a table are handed over, and the store is closed at once; closing again does no harm."""
    with disk(tmp_path) as opened:
        for token in range(1, 51):
            opened.persist(token, entry(token))
        opened.store.perform(WriteLedger(ledger_write(40, task("a"))))
        opened.store.close()
    with disk(tmp_path) as after:
        assert (len(after.recovered.entries), after.recovered.mark) == (50, mark(40))


def test_a_store_that_was_never_started_can_be_closed(tmp_path: Path) -> None:
    with disk(tmp_path, started=False):
        pass
    assert recovered_from(tmp_path) == EMPTY


def test_a_disk_hopelessly_behind_counts_as_failed(tmp_path: Path) -> None:
    """Nothing takes effects from the queue. It is bounded, and the one too many is not silently dropped."""
    with disk(tmp_path, started=False) as stuck:
        for token in range(1, QUEUED_MAX + 1):
            stuck.persist(token)
        assert stuck.events.empty()
        stuck.persist(QUEUED_MAX + 1)
        assert "65537 effects wait for the disk" in stuck.next(DiskFailed).reason


@pytest.mark.parametrize("exclusive", [True, False])
def test_every_commit_is_synced(tmp_path: Path, exclusive: bool) -> None:
    """WAL with synchronous=FULL: a sync with each commit, and not every so often (NATS 7564; consensus D1)."""
    with closing(connect(tmp_path / "some.db", exclusive=exclusive)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
