"""What ana runs under her leases, and what she still owes an answer for. Her ledger is a function: `open_after`."""

from collections.abc import Callable

from mesh.execution.attempts import Attempts, Running
from mesh.ids import FencingToken, TaskId, Term
from mesh.messages import AttemptOrder, AttemptOutcome, CheckpointReport, Lease

RESIZE, MAIL = TaskId("resize"), TaskId("mail")


def order(task_id: TaskId, token: int) -> AttemptOrder:
    return AttemptOrder(task_id, FencingToken(token), 1, "image", b"\x80", b"")


def lease(task_id: TaskId, token: int) -> Lease:
    return task_id, FencingToken(token)


def outcome(task_id: TaskId, token: int) -> AttemptOutcome:
    return AttemptOutcome(task_id, FencingToken(token), b"\x01")


def report(task_id: TaskId, token: int, sequence: int) -> CheckpointReport:
    return CheckpointReport(task_id, FencingToken(token), sequence, b"\x0a")


def open_after(index: int) -> Callable[[TaskId, FencingToken], bool]:
    """A ledger that stands at `index` and in which every lease before that is over."""
    return lambda task_id, token: token > index


SHOWS_ALL = open_after(1_000)


def running(*orders: AttemptOrder, term: int = 2) -> Attempts:
    """ana, with these attempts handed to her child processes."""
    attempts = Attempts()
    to_start, to_stop = attempts.grant(Term(term), list(orders))
    assert (to_start, to_stop) == (list(orders), [])
    assert attempts.hand_over(to_start, 100) == (list(orders), [])
    return attempts


def test_what_is_granted_runs_once() -> None:
    """The grant comes twice: the second copy starts nothing."""
    attempts = running(order(RESIZE, 7))
    assert attempts.grant(Term(2), [order(RESIZE, 7)]) == ([], [])
    assert attempts.held() == [(RESIZE, 7)]


def test_a_later_grant_of_a_task_replaces_an_earlier_one() -> None:
    """ana missed that her lease was given back and granted to her anew: the old attempt stops, and its checkpoint."""
    attempts = running(order(RESIZE, 7))
    assert attempts.checkpoint(report(RESIZE, 7, 1))
    assert attempts.grant(Term(2), [order(RESIZE, 9)]) == ([order(RESIZE, 9)], [(RESIZE, 7)])
    assert attempts.checkpoints == {}
    assert attempts.grant(Term(2), [order(RESIZE, 8)]) == ([], [])
    assert attempts.held() == [(RESIZE, 9)]


def test_an_outcome_not_yet_answered_keeps_its_own_grant_out_and_yields_to_a_later_one() -> None:
    """ana is done and nobody has said so: a late copy of the grant must not run it again, the next lease must."""
    attempts = running(order(RESIZE, 7))
    attempts.ended([outcome(RESIZE, 7)])
    assert attempts.grant(Term(2), [order(RESIZE, 7)]) == ([], [])
    assert attempts.outbox == {RESIZE: outcome(RESIZE, 7)}
    assert attempts.grant(Term(2), [order(RESIZE, 9)]) == ([order(RESIZE, 9)], [])
    assert attempts.outbox == {}


def test_grants_from_a_past_term_are_refused_and_counted() -> None:
    """A deposed leader still has two grants on the way."""
    attempts = running(order(RESIZE, 7), term=3)
    assert attempts.grant(Term(2), [order(MAIL, 8), order(RESIZE, 8)]) == ([], [])
    assert (attempts.refused, attempts.held(), attempts.term_seen) == (2, [(RESIZE, 7)], 3)
    assert attempts.grant(Term(4), []) == ([], [])
    assert attempts.term_seen == 4


def test_no_attempt_begins_beyond_the_slots() -> None:
    """S0-29: with two slots, both taken, the leader has called one lease over that still runs; its successor waits."""
    attempts = running(order(RESIZE, 7), order(MAIL, 8))
    third = order(TaskId("third"), 9)
    attempts.grant(Term(2), [third])
    assert attempts.hand_over([third], 2) == ([], [third])
    attempts.ended([outcome(MAIL, 8)])
    assert attempts.hand_over([third], 2) == ([third], [])
    assert attempts.running[TaskId("third")] == Running(FencingToken(9), handed=True)


def test_what_was_stopped_while_it_waited_for_a_slot_never_runs() -> None:
    """Two orders wait; one lease ends, the other is replaced by a later grant."""
    attempts = Attempts()
    orders = [order(RESIZE, 7), order(MAIL, 8)]
    attempts.grant(Term(2), orders)
    attempts.stop([lease(RESIZE, 7)], SHOWS_ALL)
    assert attempts.grant(Term(2), [order(MAIL, 9)]) == ([order(MAIL, 9)], [(MAIL, 8)])
    assert attempts.hand_over([*orders, order(MAIL, 9)], 1) == ([order(MAIL, 9)], [])


def test_only_what_is_in_hand_starts_ends_and_saves() -> None:
    """Child processes speak of leases ana has lost: a failure of what was stopped is nobody's business.

    A result is told all the same, for the record, and again until it is answered unless a later attempt is in hand.
    """
    attempts = running(order(RESIZE, 7))
    attempts.started([lease(RESIZE, 6), lease(MAIL, 7)])
    late = [outcome(RESIZE, 6), outcome(MAIL, 7)]
    attempts.ended([*late, AttemptOutcome(MAIL, FencingToken(7), b"", "CancelledError")])
    assert not attempts.checkpoint(report(RESIZE, 6, 1))
    assert not attempts.checkpoint(report(MAIL, 7, 1))
    assert (attempts.held(), attempts.begun()) == ([(RESIZE, 7), (MAIL, 7)], [])
    assert attempts.take_unsent() == (late, [])


def test_what_is_told_at_the_end_of_a_turn() -> None:
    """One begins and runs on, one begins and ends within the turn: its end says it all."""
    attempts = running(order(RESIZE, 7), order(MAIL, 8))
    attempts.started([lease(RESIZE, 7), lease(MAIL, 8)])
    attempts.ended([outcome(MAIL, 8)])
    assert attempts.take_unsent() == ([outcome(MAIL, 8)], [(RESIZE, 7)])
    assert attempts.take_unsent() == ([], [])
    assert attempts.held() == [(RESIZE, 7), (MAIL, 8)]
    assert attempts.begun() == [(RESIZE, 7)]


def test_a_checkpoint_waits_for_its_own_answer() -> None:
    """S0-28: the answer to an earlier one, or to another lease, is not it; the answer to a later one is."""
    attempts = running(order(RESIZE, 7))
    attempts.checkpoint(report(RESIZE, 7, 2))
    assert not attempts.checkpoint_answered(RESIZE, FencingToken(7), 1)
    assert not attempts.checkpoint_answered(RESIZE, FencingToken(6), 2)
    assert not attempts.checkpoint_answered(MAIL, FencingToken(7), 2)
    assert attempts.checkpoint_answered(RESIZE, FencingToken(7), 3)
    assert not attempts.checkpoint_answered(RESIZE, FencingToken(7), 3)


def test_the_end_of_an_attempt_ends_its_wait_for_a_checkpoint() -> None:
    """A handler that returns while its checkpoint is on the way asks no more."""
    attempts = running(order(RESIZE, 7))
    attempts.checkpoint(report(RESIZE, 7, 1))
    attempts.ended([outcome(RESIZE, 7)])
    assert attempts.checkpoints == {}


def test_an_outcome_is_kept_until_the_ledger_has_answered_it() -> None:
    """An answer to an older lease settles nothing; one to this or a later lease does."""
    attempts = running(order(RESIZE, 7))
    attempts.ended([outcome(RESIZE, 7)])
    attempts.settle(RESIZE, FencingToken(6))
    attempts.settle(MAIL, FencingToken(7))
    assert attempts.outbox == {RESIZE: outcome(RESIZE, 7)}
    attempts.settle(RESIZE, FencingToken(7))
    assert attempts.outbox == {}


def test_a_lease_that_is_over_stops_and_owes_nothing_more() -> None:
    """One runs, one has an outcome nobody wants any more, one was never here."""
    attempts = running(order(RESIZE, 7), order(MAIL, 8))
    attempts.checkpoint(report(RESIZE, 7, 1))
    attempts.ended([outcome(MAIL, 8)])
    assert attempts.stop([lease(RESIZE, 7), lease(MAIL, 8), lease(TaskId("other"), 9)], SHOWS_ALL) == [(RESIZE, 7)]
    assert (attempts.held(), attempts.checkpoints, attempts.over) == ([], {}, {})


def test_an_older_lease_being_over_does_not_stop_a_newer_one() -> None:
    """The word about token 7 is late: ana runs token 9 by now."""
    attempts = running(order(RESIZE, 9))
    assert attempts.stop([lease(RESIZE, 7)], SHOWS_ALL) == []
    assert attempts.held() == [(RESIZE, 9)]


def test_a_lease_called_over_ahead_of_our_ledger_is_not_taken_on_again() -> None:
    """The leader's word comes before our own ledger shows the grant, and a late copy of the grant after it."""
    attempts = running(order(RESIZE, 7))
    assert attempts.stop([lease(RESIZE, 7)], open_after(6)) == [(RESIZE, 7)]
    assert attempts.over == {RESIZE: 7}
    assert attempts.stop([lease(RESIZE, 5)], open_after(0)) == []
    assert attempts.over == {RESIZE: 7}
    assert attempts.grant(Term(2), [order(RESIZE, 7)]) == ([], [])
    attempts.caught_up(open_after(6))
    assert attempts.over == {RESIZE: 7}
    attempts.caught_up(open_after(7))
    assert attempts.over == {}
