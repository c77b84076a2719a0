"""The log: what is reported durable, in which order, and what a start finds of it."""

from pathlib import Path

import pytest

from mesh.effects import TrimLog, WriteLedger
from mesh.events import DiskFailed, Durable, LedgerWritten
from mesh.ids import LogIndex, Term
from tests.storage.disk import Disk, disk, entries, entry, ledger_write, recovered_from, vote


def test_tokens_are_reported_in_order_and_the_last_stands_for_all(tmp_path: Path) -> None:
    """300 batches in one go: far fewer commits, each naming its highest token."""
    with disk(tmp_path) as opened:
        for token in range(1, 301):
            opened.persist(token, entry(token))
        opened.durable(300)
        assert opened.store.figures().commits < 300
    assert recovered_from(tmp_path).entries == entries(1, 300)


def test_what_waits_is_one_commit(tmp_path: Path) -> None:
    """Batches handed over before the thread runs share one sync and one answer."""
    with disk(tmp_path, started=False) as waiting:
        for token in range(1, 101):
            waiting.persist(token, entry(token))
        waiting.store.start()
        assert waiting.next(Durable) == Durable(100)  # type: ignore[arg-type]
        assert waiting.store.figures().commits == 1


def test_a_batch_with_nothing_in_it_is_answered(tmp_path: Path) -> None:
    with disk(tmp_path) as opened:
        opened.persist(7)
        assert opened.next(Durable).token == 7


def test_term_and_vote_alone(tmp_path: Path) -> None:
    """The later of two votes counts; a batch that says nothing of them leaves them."""
    with disk(tmp_path) as opened:
        opened.persist(1, vote=vote(3, "n2"))
        opened.persist(2, vote=vote(4))
        opened.persist(3, entry(1, term=4))
        opened.durable(3)
    found = recovered_from(tmp_path)
    assert (found.hard_state, found.entries) == (vote(4), [entry(1, term=4)])


def test_a_new_leader_replaces_the_tail(tmp_path: Path) -> None:
    """Cutting and adding are one batch: after it, entries 3 to 5 of term 1 are gone and 3 to 4 of term 2 are there."""
    with disk(tmp_path) as opened:
        opened.persist(1, *entries(1, 5))
        opened.durable(1)
        opened.persist(2, *entries(3, 4, term=2), truncate_from=3, vote=vote(2))
        opened.durable(2)
    assert recovered_from(tmp_path).entries == entries(1, 2) + entries(3, 4, term=2)


def test_cuts_among_batches_that_wait_together(tmp_path: Path) -> None:
    """Three leaders in a row within one commit: only what the last of them wanted is left."""
    with disk(tmp_path, started=False) as waiting:
        waiting.persist(1, *entries(1, 6))
        waiting.persist(2, *entries(4, 8, term=2), truncate_from=4)
        waiting.persist(3, *entries(3, 3, term=3), truncate_from=3)
        waiting.persist(4, *entries(4, 5, term=3))
        waiting.store.start()
        assert waiting.next(Durable).token == 4
    assert recovered_from(tmp_path).entries == entries(1, 2) + entries(3, 5, term=3)


def test_a_cut_without_new_entries(tmp_path: Path) -> None:
    with disk(tmp_path) as opened:
        opened.persist(1, *entries(1, 5))
        opened.durable(1)
        opened.persist(2, truncate_from=4)
        opened.durable(2)
        opened.persist(3, entry(4, term=2))
        opened.durable(3)
    assert recovered_from(tmp_path).entries == [*entries(1, 3), entry(4, term=2)]


def test_a_large_batch_is_still_one_batch(tmp_path: Path) -> None:
    with disk(tmp_path) as opened:
        opened.persist(1, *entries(1, 1_000))
        opened.durable(1)
        assert opened.store.figures().commits == 1
    assert recovered_from(tmp_path).entries == entries(1, 1_000)


@pytest.mark.parametrize("data", [b"", b"\0", bytes(range(256)) * 4_096])
def test_entries_of_every_size(tmp_path: Path, data: bytes) -> None:
    with disk(tmp_path) as opened:
        opened.persist(1, entry(1, data=data))
        opened.durable(1)
    assert recovered_from(tmp_path).entries == [entry(1, data=data)]


def test_a_gap_is_refused_and_nothing_after_it_is_written(tmp_path: Path) -> None:
    """No correct core asks for it. The node stops rather than hold a log with a hole."""
    with disk(tmp_path) as opened:
        opened.persist(1, *entries(1, 2))
        opened.durable(1)
        opened.persist(2, entry(4))
        assert "entries leave no gap" in opened.next(DiskFailed).reason
        opened.persist(3, entry(3))
    assert opened.events.empty()
    assert recovered_from(tmp_path).entries == entries(1, 2)


def _covered(opened: Disk, index: int, term: int = 1) -> None:
    opened.store.perform(WriteLedger(ledger_write(index, term=term)))
    assert opened.next(LedgerWritten).applied_index == index


def test_trimming(tmp_path: Path) -> None:
    """The log starts after entry 700, of term 2; what came before is off the disk, all of it."""
    with disk(tmp_path) as opened:
        opened.persist(1, *entries(1, 600), *entries(601, 1_000, term=2))
        opened.durable(1)
        _covered(opened, 900, term=2)
        opened.store.perform(TrimLog(LogIndex(701), Term(2)))
    found = recovered_from(tmp_path)
    assert (found.before_term, found.entries) == (2, entries(701, 1_000, term=2))


def test_trimming_everything_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    """An empty log still knows where it stands (openraft afd6508b)."""
    with disk(tmp_path) as opened:
        opened.persist(1, *entries(1, 10))
        opened.durable(1)
        _covered(opened, 10)
        opened.store.perform(TrimLog(LogIndex(11), Term(1)))
        opened.persist(2, entry(11, term=2))
        opened.durable(2)
    found = recovered_from(tmp_path)
    assert (found.before_term, found.entries) == (1, [entry(11, term=2)])


def test_trimming_twice_and_backwards_changes_nothing(tmp_path: Path) -> None:
    with disk(tmp_path) as opened:
        opened.persist(1, *entries(1, 10))
        opened.durable(1)
        _covered(opened, 10)
        for first in (6, 6, 3):
            opened.store.perform(TrimLog(LogIndex(first), Term(1)))
    assert recovered_from(tmp_path).entries == entries(6, 10)


def test_the_log_is_never_trimmed_beyond_the_table(tmp_path: Path) -> None:
    """What neither file holds is lost (NATS PR 7620); such a request is a broken invariant."""
    with disk(tmp_path) as opened:
        opened.persist(1, *entries(1, 10))
        opened.durable(1)
        _covered(opened, 5)
        opened.store.perform(TrimLog(LogIndex(7), Term(1)))
        assert "beyond what the table covers" in opened.next(DiskFailed).reason
    assert recovered_from(tmp_path).entries == entries(1, 10)
