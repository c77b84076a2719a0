"""How an attempt comes to nothing, and what then becomes of the task: again, elsewhere, held, dead."""

import pytest

from mesh.ids import FencingToken
from mesh.ledger.applied import ALREADY, DONE, FENCED, REFUSED, UNKNOWN, EndedLease
from mesh.ledger.commands import (
    AdmitNode,
    CancelTask,
    DropDeadLetter,
    FailNode,
    FallBack,
    LeaveNode,
    RedriveTask,
    SetSetting,
    SubmitTask,
)
from mesh.ledger.retry import backoff_ms
from mesh.ledger.task import FAULT_DETAIL_CHARS_MAX, Fault, Kind, Task
from mesh.messages import Failure, TaskSpec
from mesh.options import LossPolicy, Options, Retry
from tests.ledger.cast import (
    ANA,
    BEN,
    MAIL,
    RESIZE,
    Log,
    complete,
    details,
    fail,
    grant,
    kinds,
    levelled,
    spec,
    start,
    submit,
    take,
    with_nodes,
)


def begun(options: Options | None, *, attempts_max: int = 3) -> Log:
    """RESIZE runs on ana under token 3 since 5,000 ms."""
    log = levelled(ANA, BEN)
    log.apply(submit(RESIZE, options=options, attempts_max=attempts_max), grant(RESIZE, ANA), at_ms=5_000)
    log.apply(start(RESIZE, 3), at_ms=5_000)
    return log


def task(log: Log) -> Task:
    return log.ledger.tasks[RESIZE]


def once_more(log: Log, error: str, at_ms: int, *, failure: Failure = Failure.HANDLER) -> list[str]:
    """RESIZE is granted to ana and fails."""
    token = log.apply(grant(RESIZE, ANA), at_ms=at_ms).index
    return kinds(log.apply(fail(RESIZE, token, error=error, failure=failure), at_ms=at_ms))


# --- again ------------------------------------------------------------------------------------------------------------


def test_a_policy_of_its_own_says_when_the_next_attempt_may_begin() -> None:
    """S2-25, E.18: 100 ms, three times as long each time, 500 at most, and up to half of it more by the dice."""
    retry = Retry(base_ms=100, max_ms=500, factor_permille=3_000, jitter_permille=500)
    assert [backoff_ms(attempt, 0, retry) for attempt in (1, 2, 3, 4)] == [100, 300, 500, 500]
    assert [backoff_ms(1, dice, retry) for dice in (0, 50, 100)] == [100, 125, 150]
    log = begun(Options(retry=retry))
    log.apply(fail(RESIZE, 3, jitter_permille=100), at_ms=6_000)
    assert (log.state(RESIZE), task(log).not_before_ms) == ("scheduled", 6_150)
    assert list(log.apply(grant(RESIZE, BEN), at_ms=6_149).outcomes) == [REFUSED]
    assert list(log.apply(grant(RESIZE, BEN), at_ms=6_150).outcomes) == [DONE]


def test_a_policy_may_ask_for_no_pause_or_for_the_same_each_time() -> None:
    assert [backoff_ms(n, 100, Retry(base_ms=0)) for n in (1, 2, 64)] == [0, 0, 0]
    assert [backoff_ms(n, 0, Retry(base_ms=700, factor_permille=1_000)) for n in (1, 2, 1_000)] == [700, 700, 700]
    assert backoff_ms(1, 0, Retry(base_ms=9_000, max_ms=50)) == 50
    log = begun(Options(retry=Retry(base_ms=0)))
    log.apply(fail(RESIZE, 3), at_ms=6_000)
    assert list(log.apply(grant(RESIZE, BEN), at_ms=6_000).outcomes) == [DONE]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        ("ValueError: no", "dead"),
        ("ValueError", "dead"),
        ("ValueErrors: no", "scheduled"),
        ("OSError: ValueError: no", "scheduled"),
    ],
)
def test_errors_that_are_named_are_final(error: str, state: str) -> None:
    """By their type, and by that alone."""
    log = begun(Options(retry=Retry(never=("KeyError", "ValueError"))))
    log.apply(fail(RESIZE, 3, error=error))
    assert log.state(RESIZE) == state


def test_the_first_fault_and_the_latest_are_kept() -> None:
    """Seven attempts fail, each in its way. Of a traceback the end is kept: it says what happened."""
    log = begun(Options(retry=Retry(base_ms=0)), attempts_max=9)
    log.apply(SetSetting("breaker_failures", 0), fail(RESIZE, 3, error="E1: one"), at_ms=6_000)
    for number in range(2, 8):
        once_more(log, f"E{number}: so", 6_000 + number)
    assert task(log).faults == [
        Fault(number, ANA, 6_000 + (0 if number == 1 else number), error, "Traceback")
        for number, error in [(1, "E1: one"), (4, "E4: so"), (5, "E5: so"), (6, "E6: so"), (7, "E7: so")]
    ]
    token = log.apply(grant(RESIZE, ANA)).index
    long = fail(RESIZE, token)
    log.apply(type(long)(RESIZE, long.token, "E8", "x" * 9_000 + "end", 0, False))
    faults = task(log).faults
    assert faults is not None
    assert (len(faults[-1].detail), faults[-1].detail[-4:]) == (FAULT_DETAIL_CHARS_MAX, "xend")


# --- elsewhere: the fallback ------------------------------------------------------------------------------------------


def test_when_attempts_are_spent_the_fallback_is_tried_and_the_original_error_kept() -> None:
    """S1-22: with attempts of its own, from the old checkpoint, at the old place in line. If that fails as well the
    task is dead, with both errors on record."""
    log = begun(Options(fallback="sketch"), attempts_max=1)
    log.apply(submit(MAIL, capability="sketch"))
    order = task(log).order
    fell = log.apply(fail(RESIZE, 3, error="OSError: no model"), at_ms=8_000)
    assert kinds(fell) == ["task_failed", "task_fell_back"]
    assert details(fell, Kind.TASK_FELL_BACK) == ["to sketch: OSError: no model"]
    found = task(log)
    assert (found.spec.capability, found.attempts, found.order, found.state) == ("sketch", 0, order, 0)
    assert (found.primary_error, fell.finished) == ("OSError: no model", [])
    assert [take(log.ledger.queue, "sketch").task_id for _ in range(2)] == [RESIZE, MAIL]
    log.ledger.queue.push(found)
    token = log.apply(grant(RESIZE, BEN)).index
    dead = log.apply(fail(RESIZE, token, error="OSError: no pencil"))
    assert kinds(dead) == ["task_failed", "task_dead"]
    assert (found.error, found.primary_error) == ("OSError: no pencil", "OSError: no model")
    assert found.faults is not None
    assert [fault.error for fault in found.faults] == ["OSError: no model", "OSError: no pencil"]


def test_a_fallback_has_all_its_attempts() -> None:
    """Three of the one, three of the other; crashes are forgotten with them."""
    log = begun(Options(fallback="sketch", retry=Retry(base_ms=0)))
    log.apply(fail(RESIZE, 3, failure=Failure.CRASH))
    ends = [once_more(log, "E: x", 6_000)[-1] for _ in range(5)]
    assert ends == ["task_retried", "task_fell_back", "task_retried", "task_retried", "task_dead"]
    assert task(log).crashes == 0


def test_a_final_error_and_the_loss_of_its_last_node_lead_to_the_fallback_too() -> None:
    log = begun(Options(fallback="sketch"))
    log.apply(fail(RESIZE, 3, final=True))
    assert task(log).spec.capability == "sketch"
    log = begun(Options(fallback="sketch"), attempts_max=1)
    assert kinds(log.apply(FailNode(ANA, 1, "silent"))) == ["node_failed", "task_lost", "task_fell_back"]
    assert task(log).primary_error == "node_lost: ana failed while it ran attempt 1"


def test_a_capability_is_no_fallback_of_itself() -> None:
    log = begun(Options(fallback="image"), attempts_max=1)
    log.apply(fail(RESIZE, 3))
    assert log.state(RESIZE) == "dead"


def test_a_task_that_fell_back_is_still_known_by_what_was_submitted() -> None:
    """C23: the same submit again is answered for, another one is a conflict; and so when it has ended, and after it was
    dropped from memory."""
    log = begun(Options(fallback="sketch"), attempts_max=1)
    log.apply(fail(RESIZE, 3))
    same, other = submit(RESIZE), submit(RESIZE, capability="sketch")
    assert list(log.apply(same, other).outcomes) == [ALREADY, 2]
    token = log.apply(grant(RESIZE, BEN)).index
    log.apply(complete(RESIZE, token))
    assert list(log.apply(same, other).outcomes) == [ALREADY, 2]


def test_a_late_result_counts_though_the_task_has_fallen_back() -> None:
    """E.4: ana was given up, the fallback is awaited, and then she is done after all."""
    log = begun(Options(fallback="sketch"), attempts_max=1)
    log.apply(FailNode(ANA, 1, "silent"))
    late = log.apply(complete(RESIZE, 3))
    assert (kinds(late), log.state(RESIZE), log.ledger.queue.lanes) == (["task_completed"], "completed", {})


def test_falling_back_is_refused_to_whoever_has_nothing_to_fall_back_to() -> None:
    """No fallback, the capability itself, a lease in force, or nobody."""
    log = levelled(ANA)
    for options in (None, Options(), Options(fallback="image")):
        name = type(RESIZE)(f"t{options}")
        log.apply(submit(name, options=options))
        assert list(log.apply(FallBack(name)).outcomes) == [REFUSED]
    log.apply(submit(RESIZE, options=Options(fallback="sketch")), grant(RESIZE, ANA))
    assert list(log.apply(FallBack(RESIZE), FallBack(type(RESIZE)("nothing"))).outcomes) == [REFUSED, UNKNOWN]


# --- lost with its node -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "state"), [(LossPolicy.RERUN, "pending"), (LossPolicy.DEAD_LETTER, "dead"), (LossPolicy.HOLD, "paused")]
)
def test_what_ran_on_a_lost_node_is_treated_as_was_asked(policy: LossPolicy, state: str) -> None:
    """E.4: nobody knows how far its code got. What had only been sent to her runs elsewhere whatever was asked."""
    for loss in (FailNode(ANA, 1, "silent"), AdmitNode(ANA, 2)):
        log = begun(Options(on_loss=policy))
        log.apply(submit(MAIL, options=Options(on_loss=policy)), grant(MAIL, ANA))
        lost = log.apply(loss)
        assert (log.state(RESIZE), log.state(MAIL)) == (state, "pending")
        assert task(log).attempts == 1
        assert lost.ended == [EndedLease(ANA, RESIZE, FencingToken(3)), EndedLease(ANA, MAIL, FencingToken(5))]
        reason = "" if policy == LossPolicy.RERUN else "node_lost: ana failed while it ran attempt 1"
        assert (task(log).error, [fault.error for fault in task(log).faults or []]) == (reason, [reason] * bool(reason))


def test_a_node_that_takes_leave_is_no_loss() -> None:
    """E.20: it stopped the attempt itself, and says so."""
    log = begun(Options(on_loss=LossPolicy.HOLD))
    log.apply(LeaveNode(ANA, 1))
    assert (log.state(RESIZE), task(log).attempts) == ("pending", 0)


def test_a_held_task_waits_for_a_person() -> None:
    """C31: nobody is granted it, and it counts as live until `retry` puts it in line again: at the end, with its
    attempts forgotten, and ana's word worth nothing any more."""
    log = begun(Options(on_loss=LossPolicy.HOLD), attempts_max=1)
    held = log.apply(FailNode(ANA, 1, "silent"))
    assert kinds(held) == ["node_failed", "task_lost", "task_held"]
    assert held.finished == []
    assert list(log.apply(grant(RESIZE, BEN), DropDeadLetter(RESIZE, "")).outcomes) == [REFUSED, REFUSED]
    log.apply(submit(MAIL))
    assert kinds(log.apply(RedriveTask(RESIZE))) == ["task_redriven"]
    assert (task(log).attempts, task(log).order > log.ledger.tasks[MAIL].order) == (0, True)
    assert list(log.apply(grant(RESIZE, BEN), complete(RESIZE, 3)).outcomes) == [DONE, FENCED]
    assert log.ledger.counts[5] == 0


def test_a_held_task_is_done_if_its_result_comes_after_all() -> None:
    """E.4, reconcile: ana was only cut off."""
    log = begun(Options(on_loss=LossPolicy.HOLD))
    log.apply(FailNode(ANA, 1, "silent"))
    late = log.apply(complete(RESIZE, 3, b"\x07"))
    assert [(one.result, one.node_id, one.attempts) for one in late.finished] == [(b"\x07", ANA, 1)]


def test_a_held_task_can_be_cancelled() -> None:
    log = begun(Options(on_loss=LossPolicy.HOLD))
    log.apply(FailNode(ANA, 1, "silent"))
    cancelled = log.apply(CancelTask(RESIZE, "enough"))
    assert (kinds(cancelled), cancelled.ended, log.state(RESIZE)) == (["task_cancelled"], [], "cancelled")


# --- poison -----------------------------------------------------------------------------------------------------------


def test_a_task_that_kills_process_after_process_is_set_apart_and_then_given_up() -> None:
    """C32: two crashes and it runs alone, three and it is dead, `poison`, though attempts are left and there would be a
    fallback: whoever ran it would die as well."""
    log = begun(Options(retry=Retry(base_ms=0), fallback="sketch"), attempts_max=9)
    assert kinds(log.apply(fail(RESIZE, 3, failure=Failure.CRASH), at_ms=6_000)) == ["task_failed", "task_retried"]
    assert not task(log).attempt_order(2).is_alone
    assert once_more(log, "OSError: signal 11", 6_000, failure=Failure.CRASH) == [
        "task_failed",
        "task_isolated",
        "task_retried",
    ]
    assert task(log).attempt_order(2).is_alone
    assert once_more(log, "ValueError: no", 6_000) == ["task_failed", "task_retried"]
    assert once_more(log, "OSError: signal 9", 6_000, failure=Failure.CRASH) == ["task_failed", "task_dead"]
    assert task(log).error == "poison: 3 processes died while they ran it; the last: OSError: signal 9"
    log.apply(RedriveTask(RESIZE))
    assert (task(log).crashes, task(log).attempt_order(2).is_alone) == (0, False)


def test_how_many_crashes_are_too_many_can_be_set() -> None:
    log = begun(Options(retry=Retry(base_ms=0)))
    log.apply(SetSetting("alone_after_crashes", 1), SetSetting("dead_after_crashes", 2))
    first = log.apply(fail(RESIZE, 3, failure=Failure.CRASH), at_ms=6_000)
    assert "task_isolated" in kinds(first)
    assert once_more(log, "x", 7_000, failure=Failure.CRASH)[-1] == "task_dead"


def test_crashes_are_attempts_too() -> None:
    """One attempt is allowed, and dies: dead, but no poison."""
    log = begun(None, attempts_max=1)
    log.apply(fail(RESIZE, 3, error="OSError: signal 11", failure=Failure.CRASH))
    assert (log.state(RESIZE), task(log).error) == ("dead", "OSError: signal 11")


def test_at_level_zero_nothing_is_noted_and_nothing_is_poison() -> None:
    """A release of before may be among the replicas, and knows neither."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE, attempts_max=9), at_ms=5_000)
    for number in range(4):
        once_more(log, "x", 100_000 * (number + 1), failure=Failure.CRASH)
    assert (log.state(RESIZE), task(log).faults, task(log).crashes) == ("scheduled", None, 0)


# --- put back with another payload ------------------------------------------------------------------------------------


def test_a_dead_letter_may_be_put_back_with_another_payload() -> None:
    """The first one could not be read. Who submits the first again is answered for all the same, in the table, and when
    the task has ended; the edited one under this id is another task's."""
    log = levelled(ANA)
    first, edited = spec(RESIZE, payload=b"\x01", attempts_max=1), spec(RESIZE, payload=b"\x02\x02\x02")
    log.apply(SubmitTask(first), grant(RESIZE, ANA))
    log.apply(fail(RESIZE, 3))
    assert log.ledger.live_bytes == 1
    log.apply(RedriveTask(RESIZE, b"\x02\x02\x02"))
    assert (log.ledger.live_bytes, task(log).attempt_order(2).payload) == (3, b"\x02\x02\x02")

    def recognised() -> list[int]:
        return list(
            log.apply(SubmitTask(first), SubmitTask(edited), SubmitTask(TaskSpec(RESIZE, "x", b"\x01"))).outcomes
        )

    assert recognised() == [ALREADY, 2, 2]
    token = log.apply(grant(RESIZE, ANA)).index
    log.apply(fail(RESIZE, token))
    log.apply(RedriveTask(RESIZE, b""))
    assert (recognised(), log.ledger.live_bytes) == ([ALREADY, 2, 2], 0)
    token = log.apply(grant(RESIZE, ANA)).index
    log.apply(complete(RESIZE, token))
    assert (recognised(), log.ledger.live_bytes) == ([ALREADY, 2, 2], 0)
