"""How an attempt ends: only the latest grant may complete, and reporting twice is harmless."""

from mesh.ids import FencingToken, LogIndex, TaskId
from mesh.ledger.applied import ALREADY, DONE, FENCED, REFUSED, UNKNOWN, EndedLease
from mesh.ledger.commands import CancelTask, DropDeadLetter, FailNode, RedriveTask, StartTask
from tests.ledger.cast import ANA, BEN, MAIL, RESIZE, complete, fail, grant, kinds, submit, take, with_nodes


def test_a_node_that_sleeps_through_its_own_funeral_cannot_complete_the_task() -> None:
    """Long pause, the classic: ana stalls, ben takes over, ana wakes up and reports."""
    log = with_nodes(ANA, BEN)
    log.apply(submit(RESIZE), grant(RESIZE, ANA))
    lost = log.apply(FailNode(ANA, 1, "silent"))
    assert lost.ended == [EndedLease(ANA, RESIZE, FencingToken(2))]
    granted = log.apply(grant(RESIZE, BEN))
    assert kinds(granted) == ["task_dispatched", "task_reassigned"]

    # ana wakes up and reports: too late, and on record. ben's result counts, and may be repeated.
    late = log.apply(complete(RESIZE, 2, b"ana"))
    assert (list(late.outcomes), kinds(late)) == ([FENCED], ["completion_fenced"])
    assert late.settled == [(RESIZE, FencingToken(2))]
    done = log.apply(complete(RESIZE, 4, b"ben"))
    assert (list(done.outcomes), kinds(done)) == ([DONE], ["task_completed"])
    assert [(task.result, task.node_id, task.attempts) for task in done.finished] == [(b"ben", BEN, 1)]
    again = log.apply(complete(RESIZE, 4, b"ben"))
    assert (list(again.outcomes), kinds(again), again.finished) == ([ALREADY], [], [])

    # And ana once more, when the task has long ended.
    assert kinds(log.apply(complete(RESIZE, 2, b"ana"))) == ["completion_fenced"]


def test_a_late_result_nobody_has_overtaken_still_counts() -> None:
    """ana is given up, but before anyone else gets the task she is back with a result: costly work is not repeated."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE), grant(RESIZE, ANA))
    log.apply(StartTask(RESIZE, FencingToken(2)))
    log.apply(FailNode(ANA, 1, "silent"))
    done = log.apply(complete(RESIZE, 2, b"ana"))
    assert (list(done.outcomes), log.state(RESIZE)) == ([DONE], "completed")
    assert [(task.node_id, task.attempts) for task in done.finished] == [(ANA, 1)]
    assert log.ledger.queue.first("image") is None


def test_a_late_result_of_an_attempt_never_charged_is_charged_now() -> None:
    """The same, but the leader never heard that user code had started."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE), grant(RESIZE, ANA))
    log.apply(FailNode(ANA, 1, "silent"))
    assert log.apply(complete(RESIZE, 2)).finished[0].attempts == 1


def test_a_late_failure_is_not_a_second_charge() -> None:
    """ana reports a failure for a lease that was lost: the task already waits for somebody else."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE), grant(RESIZE, ANA))
    log.apply(FailNode(ANA, 1, "silent"))
    late = log.apply(fail(RESIZE, 2))
    assert (list(late.outcomes), log.state(RESIZE), log.ledger.tasks[RESIZE].attempts) == ([ALREADY], "pending", 0)


def test_a_report_is_known_again_beyond_four_thousand_million_entries() -> None:
    """A busy log gets there within months: the fingerprint must still fit the store, and the report be recognised."""
    log = with_nodes(ANA)
    log.ledger.applied_index = LogIndex(2**32 + 4)
    log.apply(submit(RESIZE), grant(RESIZE, ANA))
    log.apply(complete(RESIZE, 2**32 + 5))
    assert log.ledger.finished[RESIZE] >> 32 == 5
    again = log.apply(complete(RESIZE, 2**32 + 5), complete(RESIZE, 2**32 + 6))
    assert list(again.outcomes) == [ALREADY, FENCED]


def test_a_failed_attempt_is_tried_again_after_a_pause_that_doubles() -> None:
    """S1-21, S2-25: 1 s after the first failure, 2 s and the leader's dice after the second."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE, attempts_max=5), grant(RESIZE, ANA), at_ms=1_000)
    failed = log.apply(fail(RESIZE, 2), at_ms=2_000)
    assert kinds(failed) == ["task_failed", "task_retried"]
    task = log.ledger.tasks[RESIZE]
    assert (log.state(RESIZE), task.not_before_ms, task.error, task.detail) == (
        "scheduled",
        3_000,
        "ValueError: no",
        "Traceback",
    )
    log.apply(grant(RESIZE, ANA), at_ms=3_000)
    log.apply(fail(RESIZE, 4, jitter_permille=100), at_ms=4_000)
    assert (task.not_before_ms, task.attempts) == (6_200, 2)


def test_when_attempts_are_spent_the_task_is_a_dead_letter_with_its_reason() -> None:
    """S0-14: two attempts allowed, both fail; it is never silently dropped."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE, attempts_max=2), grant(RESIZE, ANA))
    log.apply(fail(RESIZE, 2), at_ms=2_000)
    log.apply(grant(RESIZE, ANA), at_ms=9_000)
    dead = log.apply(fail(RESIZE, 4), at_ms=10_000)
    assert kinds(dead) == ["task_failed", "task_dead"]
    task = dead.finished[0]
    assert (log.state(RESIZE), task.attempts, task.error, task.finished_at_ms) == ("dead", 2, "ValueError: no", 10_000)
    assert RESIZE in log.ledger.tasks
    assert list(log.apply(grant(RESIZE, ANA)).outcomes) == [REFUSED]


def test_a_final_failure_is_not_tried_again() -> None:
    """The handler says that another try is no use."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE), grant(RESIZE, ANA))
    log.apply(fail(RESIZE, 2, final=True))
    assert (log.state(RESIZE), log.ledger.tasks[RESIZE].attempts) == ("dead", 1)


def test_a_report_from_nowhere_is_refused_without_a_trace() -> None:
    """No such task was ever heard of."""
    log = with_nodes(ANA)
    applied = log.apply(complete(TaskId("nothing"), 1), fail(TaskId("nothing"), 1))
    assert (list(applied.outcomes), kinds(applied)) == ([UNKNOWN, UNKNOWN], [])


def test_cancel_ends_a_task_in_whatever_state_it_is() -> None:
    """A waiting one just ends; a running one is stopped, and what it still reports changes nothing."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE), submit(MAIL), grant(MAIL, ANA))
    cancelled = log.apply(CancelTask(RESIZE, "not needed"), CancelTask(MAIL, "not needed"))
    assert list(cancelled.outcomes) == [DONE, DONE]
    assert cancelled.ended == [EndedLease(ANA, MAIL, FencingToken(2))]
    assert kinds(cancelled) == ["task_cancelled", "task_cancelled"]
    assert [task.task_id for task in cancelled.finished] == [RESIZE, MAIL]
    assert log.ledger.queue.first("image") is None
    assert list(log.apply(complete(MAIL, 2)).outcomes) == [ALREADY]
    assert list(log.apply(CancelTask(MAIL, "again"), CancelTask(TaskId("nothing"), "")).outcomes) == [ALREADY, UNKNOWN]


def test_a_dead_letter_is_redriven_with_its_attempts_forgotten() -> None:
    """S0-06: it goes to the end of the line, keeps its checkpoint, and old reports about it count no more."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE, attempts_max=1), grant(RESIZE, ANA))
    log.apply(fail(RESIZE, 2))
    log.apply(submit(MAIL))
    assert list(log.apply(RedriveTask(RESIZE), RedriveTask(MAIL)).outcomes) == [DONE, REFUSED]
    task = log.ledger.tasks[RESIZE]
    assert (log.state(RESIZE), task.attempts, task.token, task.finished_at_ms) == ("pending", 0, 0, 0)
    assert take(log.ledger.queue, "image").task_id == MAIL
    assert list(log.apply(complete(RESIZE, 2), RedriveTask(TaskId("nothing"))).outcomes) == [FENCED, UNKNOWN]


def test_a_dropped_dead_letter_ends_as_failed_with_the_reason_kept() -> None:
    """Somebody decides; the decision is on record."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE, attempts_max=1), grant(RESIZE, ANA))
    log.apply(fail(RESIZE, 2))
    dropped = log.apply(DropDeadLetter(RESIZE, "customer left"))
    assert (kinds(dropped), dropped.events[0].detail) == (["task_dropped"], "customer left")
    assert log.state(RESIZE) == "failed"
    log.apply(submit(MAIL))
    refused = log.apply(DropDeadLetter(MAIL, ""), DropDeadLetter(TaskId("nothing"), ""))
    assert list(refused.outcomes) == [REFUSED, UNKNOWN]
