"""What a leader may send to one follower, and when."""

import pytest

from mesh.config import RaftConfig
from mesh.ids import LogIndex
from mesh.raft.progress import Progress, ProgressState

WINDOW = RaftConfig(appends_in_flight_max=2, bytes_in_flight_max=100)


def progress(next_index: int = 5) -> Progress:
    return Progress(LogIndex(next_index), 0)


def test_a_probe_waits_for_its_answer() -> None:
    probing = progress()
    assert probing.may_send(WINDOW)
    probing.sent(LogIndex(7), 10)
    assert (probing.may_send(WINDOW), probing.next) == (False, 5)
    probing.probe(LogIndex(3))
    assert (probing.may_send(WINDOW), probing.next) == (True, 3)


def test_a_paused_probe_sends_nothing() -> None:
    paused = progress()
    paused.probe(LogIndex(5), is_paused=True)
    assert not paused.may_send(WINDOW)


def test_replication_streams_within_a_window_of_appends() -> None:
    streaming = progress()
    streaming.replicate(LogIndex(5))
    streaming.sent(LogIndex(5), 10)
    streaming.sent(LogIndex(8), 10)
    assert (streaming.may_send(WINDOW), streaming.next, streaming.bytes_in_flight) == (False, 9, 20)
    assert streaming.acknowledge(LogIndex(5))
    assert (streaming.may_send(WINDOW), streaming.bytes_in_flight) == (True, 10)


def test_and_of_bytes_but_the_first_append_always_fits() -> None:
    streaming = progress()
    streaming.replicate(LogIndex(5))
    assert streaming.has_room(500, WINDOW)
    streaming.sent(LogIndex(5), 60)
    assert streaming.has_room(40, WINDOW)
    assert not streaming.has_room(41, WINDOW)


def test_an_answer_frees_all_appends_up_to_it() -> None:
    streaming = progress()
    streaming.replicate(LogIndex(5))
    streaming.sent(LogIndex(5), 10)
    streaming.sent(LogIndex(8), 20)
    assert streaming.acknowledge(LogIndex(8))
    assert (streaming.match, streaming.next, streaming.bytes_in_flight) == (8, 9, 0)
    assert not streaming.acknowledge(LogIndex(8))


def test_a_match_beyond_next_moves_next() -> None:
    probing = progress(3)
    assert probing.acknowledge(LogIndex(6))
    assert (probing.match, probing.next) == (6, 7)


def test_a_follower_that_needs_a_snapshot_is_sent_no_entries() -> None:
    waiting = progress()
    waiting.await_snapshot(LogIndex(5))
    assert (waiting.state, waiting.may_send(WINDOW)) == (ProgressState.SNAPSHOT, False)


def test_next_stays_above_match() -> None:
    """raft#149 and its kin: next at or below match would send what is held, or skip what is not."""
    known = progress()
    known.acknowledge(LogIndex(4))
    with pytest.raises(AssertionError, match="above match"):
        known.probe(LogIndex(4))
