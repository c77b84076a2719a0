"""Limits of time: the ledger decides by the time in the log, exactly at their millisecond (C15, C25).

Tasks are submitted at 5,000 ms.
"""

import pytest

from mesh.ids import FencingToken, TaskId
from mesh.ledger.applied import DONE, FENCED, REFUSED, UNKNOWN, Applied, EndedLease
from mesh.ledger.commands import (
    BY_HAND,
    Command,
    FallBack,
    LeaveNode,
    Limit,
    RedriveTask,
    ReleaseLease,
    SaveCheckpoint,
    SubmitTask,
    TimeOut,
)
from mesh.ledger.task import Fault, Task
from mesh.options import LossPolicy, Options, Retry
from tests.ledger.cast import ANA, BEN, RESIZE, Log, complete, fail, grant, kinds, levelled, spec, start, submit

NONE = FencingToken(0)


def out(limit: Limit, token: int = 0, *, jitter_permille: int = 0) -> TimeOut:
    return TimeOut(RESIZE, FencingToken(token), limit, jitter_permille)


def limited(options: Options, *, attempts_max: int = 3, is_granted: bool = True) -> Log:
    """RESIZE, submitted at 5,000 under these options, and granted to ana in the same entry: its token is 3."""
    log = levelled(ANA, BEN)
    commands: list[Command] = [submit(RESIZE, options=options, attempts_max=attempts_max), grant(RESIZE, ANA)]
    log.apply(*commands[: 1 + is_granted], at_ms=5_000)
    return log


def outcome(log: Log, command: TimeOut, at_ms: int) -> int:
    return log.apply(command, at_ms=at_ms).outcomes[0]


def task(log: Log) -> Task:
    return log.ledger.tasks[RESIZE]


# --- before an attempt begins -----------------------------------------------------------------------------------------


def test_a_task_nobody_begins_is_a_dead_letter_at_its_millisecond() -> None:
    """F: no capable node is no failure, unless a schedule timeout says so; then it is `unschedulable`."""
    log = limited(Options(schedule_timeout_ms=2_000), is_granted=False)
    assert outcome(log, out(Limit.SCHEDULE), 6_999) == REFUSED
    late = log.apply(out(Limit.SCHEDULE), at_ms=7_000)
    assert (list(late.outcomes), kinds(late), late.finished) == ([DONE], ["task_timed_out", "task_dead"], [task(log)])
    assert (log.state(RESIZE), task(log).error) == ("dead", "unschedulable: no attempt began within 2000 ms")
    assert task(log).attempts == 0
    assert log.ledger.queue.first("image") is None
    assert outcome(log, out(Limit.SCHEDULE), 8_000) == REFUSED


def test_a_task_that_has_not_begun_by_then_expires() -> None:
    """E.17: it ends as cancelled, at its millisecond."""
    log = limited(Options(expires_at_ms=7_500), is_granted=False)
    assert outcome(log, out(Limit.EXPIRY), 7_499) == REFUSED
    expired = log.apply(out(Limit.EXPIRY), at_ms=7_500)
    assert (kinds(expired), expired.events[0].detail) == (["task_cancelled"], "expired: it had not begun in time")
    assert log.state(RESIZE) == "cancelled"
    assert outcome(log, out(Limit.EXPIRY), 8_000) == UNKNOWN


def test_a_task_for_later_is_awaited_from_its_time_on() -> None:
    """C12: the wait that was asked for is none."""
    log = levelled(ANA)
    options = Options(schedule_timeout_ms=2_000)
    log.apply(SubmitTask(spec(RESIZE, options=options, not_before_ms=60_000)), at_ms=5_000)
    assert outcome(log, out(Limit.SCHEDULE), 61_999) == REFUSED
    assert outcome(log, out(Limit.SCHEDULE), 62_000) == DONE


@pytest.mark.parametrize("limit", [Limit.SCHEDULE, Limit.EXPIRY])
def test_neither_counts_once_an_attempt_has_begun(limit: Limit) -> None:
    """While it is leased, and while it waits for its second attempt, and after its node took leave in the middle."""
    log = limited(Options(schedule_timeout_ms=1_000, expires_at_ms=6_000))
    assert outcome(log, out(limit), 7_000) == REFUSED
    log.apply(fail(RESIZE, 3), at_ms=7_000)
    assert (log.state(RESIZE), outcome(log, out(limit), 7_500)) == ("scheduled", REFUSED)
    for leaving in (LeaveNode(ANA, 1), ReleaseLease(RESIZE, FencingToken(3), "drain")):
        log = limited(Options(schedule_timeout_ms=1_000, expires_at_ms=6_000))
        log.apply(start(RESIZE, 3), at_ms=5_100)
        log.apply(leaving, at_ms=90_000)
        assert (log.state(RESIZE), task(log).attempts) == ("pending", 0)
        assert outcome(log, out(limit), 90_000) == REFUSED


@pytest.mark.parametrize("limit", [Limit.SCHEDULE, Limit.EXPIRY])
def test_both_count_again_if_a_lease_is_given_back_before_user_code_ran(limit: Limit) -> None:
    """It was on its way to ana, who never began."""
    log = limited(Options(schedule_timeout_ms=1_000, expires_at_ms=6_000))
    log.apply(ReleaseLease(RESIZE, FencingToken(3), "never delivered"), at_ms=5_500)
    assert outcome(log, out(limit), 5_999) == REFUSED
    assert outcome(log, out(limit), 6_000) == DONE


def test_a_dead_letter_put_back_is_awaited_anew() -> None:
    """Somebody has started the node that was missing, a day later; it takes its time."""
    log = limited(Options(schedule_timeout_ms=2_000), is_granted=False)
    log.apply(out(Limit.SCHEDULE), at_ms=7_000)
    log.apply(RedriveTask(RESIZE), at_ms=86_400_000)
    assert outcome(log, out(Limit.SCHEDULE), 86_401_999) == REFUSED
    assert outcome(log, out(Limit.SCHEDULE), 86_402_000) == DONE


def test_a_fallback_is_awaited_anew() -> None:
    """S1-22: nobody does it the good way within two seconds; the other way has two seconds of its own, and then it is
    a dead letter, by both reasons."""
    log = limited(Options(schedule_timeout_ms=2_000, fallback="sketch"), is_granted=False)
    fell = log.apply(out(Limit.SCHEDULE), at_ms=7_000)
    assert kinds(fell) == ["task_timed_out", "task_fell_back"]
    assert (log.state(RESIZE), task(log).spec.capability) == ("pending", "sketch")
    assert outcome(log, out(Limit.SCHEDULE), 8_999) == REFUSED
    log.apply(out(Limit.SCHEDULE), at_ms=9_000)
    assert (log.state(RESIZE), task(log).primary_error) == ("dead", "unschedulable: no attempt began within 2000 ms")


def test_a_task_that_fell_back_after_failing_has_begun_and_does_not_expire() -> None:
    """Its attempts begin anew, its life does not. One that fell back before it was ever tried may expire yet."""
    options = Options(expires_at_ms=6_000, fallback="sketch")
    log = limited(options, attempts_max=1)
    log.apply(fail(RESIZE, 3), at_ms=5_500)
    assert (task(log).attempts, outcome(log, out(Limit.EXPIRY), 6_000)) == (0, REFUSED)
    log = limited(options, is_granted=False)
    log.apply(FallBack(RESIZE), at_ms=5_500)
    assert outcome(log, out(Limit.EXPIRY), 6_000) == DONE


# --- during an attempt ------------------------------------------------------------------------------------------------


def test_an_attempt_is_stopped_when_its_time_has_run_out() -> None:
    """From the grant to the outcome; charged, noted, tried again; ana is told to stop, and fenced if she does not."""
    log = limited(Options(run_timeout_ms=3_000))
    log.apply(start(RESIZE, 3), at_ms=5_500)
    assert outcome(log, out(Limit.RUN, 3), 7_999) == REFUSED
    stopped = log.apply(out(Limit.RUN, 3, jitter_permille=50), at_ms=8_000)
    assert kinds(stopped) == ["task_timed_out", "task_retried"]
    assert stopped.ended == [EndedLease(ANA, RESIZE, FencingToken(3))]
    error = "timeout_run: the attempt took more than 3000 ms"
    assert (task(log).error, task(log).attempts, task(log).not_before_ms) == (error, 1, 9_050)
    assert task(log).faults == [Fault(1, ANA, 8_000, error, "")]
    log.apply(grant(RESIZE, BEN), at_ms=9_050)
    assert list(log.apply(complete(RESIZE, 3), at_ms=9_100).outcomes) == [FENCED]


def test_an_attempt_that_was_not_heard_to_begin_is_charged_all_the_same() -> None:
    """It had its time."""
    log = limited(Options(run_timeout_ms=3_000), attempts_max=1)
    stopped = log.apply(out(Limit.RUN, 3), at_ms=8_000)
    assert (kinds(stopped), task(log).attempts) == (["task_timed_out", "task_dead"], 1)


def test_the_deadline_goes_with_the_order() -> None:
    """So that whoever runs it can stop by itself."""
    log = levelled(ANA)
    log.apply(submit(RESIZE, options=Options(run_timeout_ms=3_000)), at_ms=5_000)
    (granted,) = log.apply(grant(RESIZE, ANA), at_ms=6_000).granted
    assert granted.attempt_order(2).deadline_ms == 9_000


def test_each_checkpoint_is_progress() -> None:
    """E.10: between two of them no more than two seconds; from the grant to the first one neither. One by hand counts,
    one that came before does not."""
    log = limited(Options(progress_timeout_ms=2_000))
    assert outcome(log, out(Limit.PROGRESS, 3), 6_999) == REFUSED
    log.apply(SaveCheckpoint(RESIZE, FencingToken(3), 1, b"\x01"), at_ms=6_999)
    assert outcome(log, out(Limit.PROGRESS, 3), 8_998) == REFUSED
    log.apply(SaveCheckpoint(RESIZE, FencingToken(3), BY_HAND, b"\x02"), at_ms=8_998)
    log.apply(SaveCheckpoint(RESIZE, FencingToken(3), 1, b"\x01"), at_ms=9_500)
    assert outcome(log, out(Limit.PROGRESS, 3), 10_997) == REFUSED
    stalled = log.apply(out(Limit.PROGRESS, 3), at_ms=10_998)
    assert kinds(stalled) == ["task_timed_out", "task_retried"]
    assert task(log).error == "timeout_progress: no checkpoint for more than 2000 ms"


@pytest.mark.parametrize(("limit", "options"), [(Limit.RUN, Options(run_timeout_ms=1_000))])
def test_a_limit_is_about_one_attempt(limit: Limit, options: Options) -> None:
    """The proposal was about ana's; ben has it by now, and time enough."""
    log = limited(options)
    log.apply(ReleaseLease(RESIZE, FencingToken(3), "x"), at_ms=5_900)
    assert outcome(log, out(limit, 3), 6_000) == REFUSED
    log.apply(grant(RESIZE, BEN), at_ms=6_000)
    assert outcome(log, out(limit, 3), 7_000) == REFUSED
    assert outcome(log, out(limit, 6), 7_000) == DONE


@pytest.mark.parametrize("options", [None, Options(on_loss=LossPolicy.HOLD)])
def test_where_no_limit_was_set_none_passes(options: Options | None) -> None:
    """Nor for a task that nobody knows."""
    log = levelled(ANA)
    log.apply(submit(RESIZE, options=options))
    waiting = [outcome(log, out(limit), 10**9) for limit in Limit]
    log.apply(grant(RESIZE, ANA))
    token = log.ledger.tasks[RESIZE].token
    assert waiting + [outcome(log, out(limit, token), 10**9) for limit in Limit] == [REFUSED] * 8
    assert outcome(log, TimeOut(TaskId("nothing"), NONE, Limit.RUN, 0), 10**9) == UNKNOWN


def test_time_that_has_run_out_may_be_an_error_that_is_final() -> None:
    """`never` names it, as it names those of the handler."""
    log = limited(Options(run_timeout_ms=1_000, retry=Retry(never=("timeout_run",))))
    assert kinds(log.apply(out(Limit.RUN, 3), at_ms=6_000)) == ["task_timed_out", "task_dead"]


def test_what_is_awaited_is_told_to_the_leader() -> None:
    """Whatever it came by: a submit, a redrive, a fall back; so that somebody watches the clock."""
    log = levelled(ANA)
    options = Options(schedule_timeout_ms=2_000, fallback="sketch")

    def awaited(applied: Applied) -> list[str]:
        return [str(one.task_id) for one in applied.awaited]

    assert awaited(log.apply(submit(RESIZE, options=options), submit(TaskId("plain")))) == [RESIZE]
    assert awaited(log.apply(submit(RESIZE, options=options), grant(RESIZE, ANA))) == []
    assert awaited(log.apply(fail(RESIZE, 4, final=True))) == [RESIZE]
    log.apply(grant(RESIZE, ANA))
    assert awaited(log.apply(fail(RESIZE, 6, final=True))) == []
    assert awaited(log.apply(RedriveTask(RESIZE))) == [RESIZE]
