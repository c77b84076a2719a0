"""What was told to the disk, and what may be promised on it."""

import pytest

from mesh.durable import HardState
from mesh.effects import NOTHING, Persist
from mesh.ids import LogIndex, PersistToken, Term
from mesh.raft.journal import Journal
from mesh.raft.log import Log
from tests.raft.cast import ANA, entry
from tests.raft.test_log import log

STATE = HardState(Term(3), ANA)


def on_disk(*terms: int) -> tuple[Journal, Log]:
    """A log of these terms, all of it durable."""
    held = log(*terms)
    return Journal(held.last_index), held


def test_nothing_to_say_is_no_batch() -> None:
    journal, held = on_disk(1, 1)
    assert not journal.is_open(held)
    assert journal.after_entry(LogIndex(2), held) == NOTHING
    assert journal.after_hard_state() == NOTHING
    with pytest.raises(AssertionError, match="not worth a sync"):
        journal.take(held, STATE, 0)


def test_entries_of_one_turn_share_a_batch() -> None:
    journal, held = on_disk(1)
    held.append(entry(2, 1))
    held.append(entry(3, 1))
    assert journal.after_entry(LogIndex(2), held) == 1
    assert journal.take(held, STATE, 0) == Persist(PersistToken(1), None, LogIndex(0), (entry(2, 1), entry(3, 1)))
    assert not journal.is_open(held)


def test_term_and_vote_are_written_when_they_change_and_only_then() -> None:
    journal, held = on_disk(1)
    journal.hard_state_changed()
    assert journal.after_hard_state() == 1
    assert journal.take(held, STATE, 0) == Persist(PersistToken(1), STATE, LogIndex(0), ())
    assert journal.after_hard_state() == 1
    held.append(entry(2, 3))
    assert journal.take(held, STATE, 0) == Persist(PersistToken(2), None, LogIndex(0), (entry(2, 3),))
    assert journal.after_hard_state() == 1
    journal.durable(PersistToken(1))
    assert journal.after_hard_state() == NOTHING


def test_a_promise_of_an_entry_waits_for_the_latest_batch() -> None:
    """Entry 2 went out with batch 1. A promise of it waits for 1, or for the open batch if there is one."""
    journal, held = on_disk(1)
    held.append(entry(2, 1))
    journal.take(held, STATE, 0)
    assert journal.after_entry(LogIndex(2), held) == 1
    held.append(entry(3, 1))
    assert journal.after_entry(LogIndex(2), held) == 2
    journal.durable(PersistToken(1))
    assert journal.durable_index == 2
    assert journal.after_entry(LogIndex(2), held) == NOTHING


def test_a_cut_below_what_was_told_is_told() -> None:
    """Entries 2 to 4 are on disk; 3 and 4 are replaced by another 3."""
    journal, held = on_disk(1, 1, 1, 1)
    held.truncate(LogIndex(3))
    journal.truncated(LogIndex(3))
    held.append(entry(3, 2))
    assert journal.durable_index == 2
    assert journal.take(held, STATE, 0) == Persist(PersistToken(1), None, LogIndex(3), (entry(3, 2),))


def test_a_cut_alone_is_a_batch() -> None:
    journal, held = on_disk(1, 1)
    held.truncate(LogIndex(2))
    journal.truncated(LogIndex(2))
    assert journal.take(held, STATE, 0) == Persist(PersistToken(1), None, LogIndex(2), ())


def test_a_cut_of_what_was_never_told_is_not() -> None:
    """Entries 2 and 3 came and 3 was replaced, all in one turn."""
    journal, held = on_disk(1)
    held.append(entry(2, 1))
    held.append(entry(3, 1))
    held.truncate(LogIndex(3))
    journal.truncated(LogIndex(3))
    held.append(entry(3, 2))
    assert journal.take(held, STATE, 0) == Persist(PersistToken(1), None, LogIndex(0), (entry(2, 1), entry(3, 2)))


def test_two_cuts_in_a_turn_are_the_deeper_one() -> None:
    journal, held = on_disk(1, 1, 1)
    for index in (3, 2):
        held.truncate(LogIndex(index))
        journal.truncated(LogIndex(index))
        held.append(entry(index, index))
    assert journal.take(held, STATE, 0) == Persist(PersistToken(1), None, LogIndex(2), (entry(2, 2),))


def test_a_late_confirmation_speaks_only_of_what_was_not_cut() -> None:
    """Entries 2 and 3 are with the disk when 3 is replaced. What is said of the old 3 does not vouch for the new."""
    journal, held = on_disk(1)
    held.append(entry(2, 1))
    held.append(entry(3, 1))
    journal.take(held, STATE, 0)
    held.truncate(LogIndex(3))
    journal.truncated(LogIndex(3))
    held.append(entry(3, 2))
    journal.take(held, STATE, 0)
    journal.durable(PersistToken(1))
    assert journal.durable_index == 2
    journal.durable(PersistToken(2))
    assert journal.durable_index == 3


def test_doubled_and_stale_confirmations_change_nothing() -> None:
    journal, held = on_disk(1)
    for index in (2, 3):
        held.append(entry(index, 1))
        journal.take(held, STATE, 0)
    journal.durable(PersistToken(2))
    journal.durable(PersistToken(1))
    journal.durable(PersistToken(2))
    assert (journal.durable_token, journal.durable_index) == (2, 3)


def test_another_log_is_durable_from_the_start() -> None:
    """A snapshot at 3 replaced a log that reached 4, and would have reached 5, while a batch of it was under way."""
    journal, held = on_disk(1)
    for index in (2, 3, 4):
        held.append(entry(index, 1))
    journal.take(held, STATE, 0)
    held.append(entry(5, 1))
    journal.replaced(other := log(before=3, before_term=2))
    assert not journal.is_open(other)
    journal.durable(PersistToken(1))
    assert journal.durable_index == 3


@pytest.mark.parametrize(("now_ms", "stalled"), [(1_099, False), (1_100, True)])
def test_the_oldest_unconfirmed_batch_tells_a_stall(now_ms: int, stalled: bool) -> None:
    """Told at 100 and 900; 1,000 ms are allowed."""
    journal, held = on_disk(1)
    for index, at_ms in ((2, 100), (3, 900)):
        held.append(entry(index, 1))
        journal.take(held, STATE, at_ms)
    assert journal.is_stalled(now_ms, 1_000) is stalled
    journal.durable(PersistToken(2))
    assert journal.is_stalled(9_999, 1_000) is False
