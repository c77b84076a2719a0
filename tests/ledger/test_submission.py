"""A task comes into being once per id (S0-11, S0-22)."""

from mesh.ids import TaskId
from mesh.ledger.applied import ALREADY, CONFLICT, DONE
from mesh.ledger.commands import SubmitTask
from mesh.messages import TaskSpec
from tests.ledger.cast import ANA, MAIL, RESIZE, Log, complete, grant, kinds, submit, take, with_nodes


def test_a_submit_makes_a_pending_task_with_its_beginning_on_record() -> None:
    """eva submits one task; it waits, and the log says since when."""
    log = Log()
    applied = log.apply(submit(RESIZE), at_ms=7_000)

    assert list(applied.outcomes) == [DONE]
    assert (applied.submitted, applied.conflicts) == ([RESIZE], [])
    assert kinds(applied) == ["task_submitted"]
    task = log.ledger.tasks[RESIZE]
    assert (log.state(RESIZE), task.submitted_at_ms, task.attempts, task.token) == ("pending", 7_000, 0, 0)
    assert log.ledger.queue.first("image") is task


def test_the_same_submit_again_changes_nothing_and_is_answered_the_same() -> None:
    """eva heard no answer and submits again, twice in one entry; there is one task."""
    log = Log()
    log.apply(submit(RESIZE))
    again = log.apply(submit(RESIZE), submit(RESIZE))

    assert list(again.outcomes) == [ALREADY, ALREADY]
    assert again.submitted == [RESIZE, RESIZE]
    assert len(log.ledger.tasks) == 1
    assert take(log.ledger.queue, "image").task_id == RESIZE
    assert log.ledger.queue.first("image") is None


def test_the_same_id_with_another_payload_is_a_conflict() -> None:
    """Somebody else uses eva's id; the first task stands as it was."""
    log = Log()
    log.apply(submit(RESIZE, payload=b"\x01"))
    other = log.apply(submit(RESIZE, payload=b"\x02"), SubmitTask(TaskSpec(RESIZE, "mail", b"\x01")))

    assert list(other.outcomes) == [CONFLICT, CONFLICT]
    assert (other.submitted, other.conflicts) == ([], [RESIZE, RESIZE])
    assert log.ledger.tasks[RESIZE].spec.payload == b"\x01"


def test_a_finished_task_is_recognised_after_it_has_left_memory() -> None:
    """A very late repeat of a submit does not run the task again, nor does a conflicting one."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE), grant(RESIZE, ANA))
    log.apply(complete(RESIZE, 2))
    log.ledger.take_changes()

    assert RESIZE not in log.ledger.tasks
    assert list(log.apply(submit(RESIZE)).outcomes) == [ALREADY]
    assert list(log.apply(submit(RESIZE, payload=b"\x07")).outcomes) == [CONFLICT]
    assert log.ledger.counts[6] == 1


def test_a_delayed_task_waits_for_its_time() -> None:
    """A task for later is scheduled, not pending, and nobody may run it early."""
    log = with_nodes(ANA)
    log.apply(SubmitTask(TaskSpec(MAIL, "image", b"", not_before_ms=9_000)), at_ms=2_000)
    assert log.state(MAIL) == "scheduled"
    assert log.ledger.queue.next_due_ms() == 9_000

    early = log.apply(grant(MAIL, ANA), at_ms=8_999)
    on_time = log.apply(grant(MAIL, ANA), at_ms=9_000)
    assert (list(early.outcomes), list(on_time.outcomes)) == ([5], [DONE])


def test_time_in_the_log_never_goes_back() -> None:
    """The new leader's clock is behind the old one's: its entries carry the later time all the same."""
    log = Log()
    log.apply(submit(TaskId("a")), at_ms=5_000)
    assert log.apply(submit(TaskId("b")), at_ms=4_000).at_ms == 5_000


def test_a_task_may_come_with_a_checkpoint_to_go_on_from() -> None:
    """S0-18: eva hands in work that was begun elsewhere; ana's first attempt finds where it stood."""
    log = with_nodes(ANA)
    begun = TaskSpec(MAIL, "image", b"\x01", checkpoint=b"\x81")
    log.apply(SubmitTask(begun))
    (task,) = log.apply(grant(MAIL, ANA)).granted
    assert task.attempt_order(2).checkpoint == b"\x81"
