"""The leader's clock: it proposes what runs out of time, at its millisecond, whatever happened in between (C15).

Time is 10,000 when the office begins.
"""

from random import Random

import pytest

from mesh.dispatch import deadlines as deadlines_module
from mesh.ids import FencingToken, TaskId
from mesh.ledger.commands import (
    CancelTask,
    Command,
    FailNode,
    FireCron,
    GrantLease,
    Limit,
    RedriveTask,
    ReleaseLease,
    SaveCheckpoint,
    SetCron,
    StartTask,
    TimeOut,
)
from mesh.options import CronSpec, LossPolicy, Options
from tests.dispatch.cast import ANA, BEN, Office, spec, token

A = TaskId("a")
FULL = Options(schedule_timeout_ms=2_000, expires_at_ms=14_000)


def busy() -> Office:
    """Nobody has a slot: what is submitted waits. The leader has looked through what there is."""
    office = Office(ANA, slots=0)
    assert office.turn() == []
    return office


def time_outs(commands: list[Command]) -> list[tuple[str, str, int]]:
    return [
        (str(command.task_id), Limit(command.limit).name, int(command.token))
        for command in commands
        if isinstance(command, TimeOut)
    ]


def proposed(office: Office, at_ms: int) -> list[tuple[str, str, int]]:
    """What runs out of time at that moment; it is applied."""
    return time_outs(office.turn(at_ms))


# --- before an attempt ------------------------------------------------------------------------------------------------


def test_what_nobody_begins_is_proposed_at_its_millisecond() -> None:
    """And the desk knows when to look."""
    office = busy()
    office.put(spec("a", FULL), spec("plain"), spec("free", Options(fairness="x")))
    assert office.dispatcher.deadlines.next_due_ms() == 12_000
    assert proposed(office, 11_999) == []
    assert proposed(office, 12_000) == [("a", "SCHEDULE", 0)]
    assert (office.state("a"), office.applied.outcomes[0]) == ("dead", 0)
    assert proposed(office, 14_000) == []


def test_what_expires_is_proposed_at_its_millisecond() -> None:
    office = busy()
    office.put(spec("a", Options(expires_at_ms=14_000)))
    assert (proposed(office, 13_999), proposed(office, 14_000)) == ([], [("a", "EXPIRY", 0)])
    assert office.state("a") == "cancelled"
    assert (proposed(office, 15_000), office.dispatcher.deadlines.next_due_ms()) == ([], None)


def test_what_has_come_to_nothing_is_proposed_again_after_a_second() -> None:
    """The entry was lost with a term that never committed it."""
    office = busy()
    office.put(spec("a", FULL))
    office.at_ms = 12_000
    assert time_outs(office.propose()) == [("a", "SCHEDULE", 0)]
    office.at_ms = 12_999
    assert time_outs(office.propose()) == []
    office.at_ms = 13_000
    assert time_outs(office.propose()) == [("a", "SCHEDULE", 0)]


def test_a_lease_given_back_before_user_code_ran_does_not_stop_the_clock() -> None:
    """It was on its way to ana when the time was over, and she never got it: whether she says so before or after, the
    task is a dead letter within a second, under this leader and under the next."""
    for is_next_leader in (False, True):
        office = Office(ANA)
        office.submit(spec("a", FULL))
        office.turn()
        assert office.state("a") == "dispatched"
        if is_next_leader:
            office.dispatcher.leave_office()
            office.lead()
        assert proposed(office, 12_500) == []
        office.beat(ANA, slots=0)
        office.commit([ReleaseLease(A, token(2), "never delivered")])
        assert (office.state("a"), proposed(office, 13_500)) == ("pending", [("a", "SCHEDULE", 0)])


def test_a_task_that_has_begun_is_not_timed_any_more() -> None:
    """Neither while it runs, nor after its node took leave."""
    office = Office(ANA)
    office.submit(spec("a", FULL))
    office.turn()
    office.commit([StartTask(A, token(2))])
    assert proposed(office, 13_000) == []
    office.beat(ANA, slots=0)
    office.commit([ReleaseLease(A, token(2), "drain")])
    assert [proposed(office, at_ms) for at_ms in (14_000, 15_000, 99_000)] == [[], [], []]
    office.dispatcher.leave_office()
    office.lead()
    assert [proposed(office, at_ms) for at_ms in (99_000, 100_000)] == [[], []]


def test_a_dead_letter_put_back_and_a_fallback_are_timed_anew() -> None:
    """Both from when that happened."""
    office = busy()
    office.put(spec("a", Options(schedule_timeout_ms=2_000, fallback="draft")))
    assert proposed(office, 12_000) == [("a", "SCHEDULE", 0)]
    assert office.ledger.tasks[A].spec.capability == "draft"
    assert (proposed(office, 13_999), proposed(office, 14_000)) == ([], [("a", "SCHEDULE", 0)])
    assert office.state("a") == "dead"
    office.at_ms = 20_000
    office.commit([RedriveTask(A)])
    assert (proposed(office, 21_999), proposed(office, 22_000)) == ([], [("a", "SCHEDULE", 0)])


def test_what_a_schedule_submits_is_timed_like_anything_else() -> None:
    """A firing, and one that waited for the end of the last task and came without a command of its own."""
    office = busy()
    cron = CronSpec("nightly", "* * * * *", "code", b"", overlap=2, options=Options(schedule_timeout_ms=500))
    office.commit([SetCron(cron, 10_000)])
    office.commit([FireCron("nightly", 10_000, 10_100, 0, False)])
    office.at_ms = 10_100
    office.commit([FireCron("nightly", 10_100, 99_000, 0, False)])
    assert proposed(office, 10_500) == [("nightly@10000", "SCHEDULE", 0)]
    assert office.state("nightly@10100") == "pending"
    assert (proposed(office, 10_999), proposed(office, 11_000)) == ([], [("nightly@10100", "SCHEDULE", 0)])


def test_a_repeated_submit_is_timed_once() -> None:
    office = busy()
    office.put(spec("a", FULL), spec("a", FULL))
    office.put(spec("a", FULL))
    assert len(office.dispatcher.deadlines._heap) == 2


# --- during an attempt ------------------------------------------------------------------------------------------------


def test_an_attempt_is_proposed_to_be_stopped_at_its_millisecond() -> None:
    """From its grant, under its token; and each attempt anew."""
    office = Office(ANA)
    office.submit(spec("a", Options(run_timeout_ms=3_000)))
    office.turn(10_500)
    assert (proposed(office, 13_499), proposed(office, 13_500)) == ([], [("a", "RUN", 2)])
    assert (office.state("a"), office.loads()) == ("scheduled", {"ana": 0})
    office.turn(20_000)
    assert (proposed(office, 22_999), proposed(office, 23_000)) == ([], [("a", "RUN", 4)])


def test_each_checkpoint_puts_the_watchdog_off() -> None:
    """E.10."""
    office = Office(ANA)
    office.submit(spec("a", Options(progress_timeout_ms=1_000)))
    office.turn()
    office.at_ms = 10_900
    office.commit([SaveCheckpoint(A, token(2), 1, b"\x01")])
    assert proposed(office, 11_000) == []
    assert office.dispatcher.deadlines.next_due_ms() == 11_900
    assert proposed(office, 11_900) == [("a", "PROGRESS", 2)]


def test_a_lease_that_has_ended_is_not_stopped() -> None:
    """Given back, done, lost or cancelled in time; what is granted to ben then has time of its own."""
    office = Office(ANA, BEN, slots=1)
    office.submit(spec("a", Options(run_timeout_ms=1_000)))
    office.turn()
    office.commit([FailNode(ANA, 1, "silent")])
    assert office.grants(10_800) == [("a", "ben")]
    assert proposed(office, 11_000) == []
    office.done("a")
    office.turn(11_100)
    assert (proposed(office, 20_000), office.dispatcher.deadlines.next_due_ms()) == ([], None)


def test_a_report_and_a_stop_that_cross_leave_the_slot_free_once() -> None:
    """Whichever comes first in the log: the result counts, or the next attempt does."""
    for is_report_first in (True, False):
        office = Office(ANA)
        office.submit(spec("a", Options(run_timeout_ms=1_000)))
        office.turn()
        office.at_ms = 11_000
        if is_report_first:
            office.done("a")
        stop = office.propose()
        assert time_outs(stop) == [("a", "RUN", 2)]
        if not is_report_first:
            office.done("a")
        late = office.propose()
        office.commit(stop)
        if late:
            office.commit(late)
        assert (office.state("a"), office.loads()) == ("completed", {"ana": 0})


def test_a_held_task_is_under_no_clock() -> None:
    """A person decides; when he has, it is awaited anew."""
    office = Office(ANA)
    options = Options(run_timeout_ms=1_000, schedule_timeout_ms=500, on_loss=LossPolicy.HOLD)
    office.submit(spec("a", options))
    office.turn()
    office.commit([StartTask(A, token(2)), FailNode(ANA, 1, "silent")])
    assert (office.state("a"), proposed(office, 50_000)) == ("paused", [])
    office.dispatcher.leave_office()
    office.lead()
    assert proposed(office, 60_000) == []
    office.commit([RedriveTask(A)])
    assert (proposed(office, 60_499), proposed(office, 60_500)) == ([], [("a", "SCHEDULE", 0)])


def test_what_is_remembered_of_tasks_that_have_ended_has_a_bound() -> None:
    """Three thousand with an hour to run take no time at all; two live on, of which one is stopped in its time, and the
    other, which has not begun, in its own."""
    office = Office(ANA, slots=4)
    hour = Options(run_timeout_ms=3_600_000, schedule_timeout_ms=7_200_000)
    office.submit(spec("runs", hour), spec("waits", hour, capability="paint"))
    office.turn()
    clock = office.dispatcher.deadlines
    for number in range(3_000):
        office.submit(spec(f"t{number}", hour))
        office.turn()
        office.done(f"t{number}")
        office.turn()
        assert len(clock._heap) <= deadlines_module.STALE_MIN + 8 * 3
    assert proposed(office, 3_609_999) == []
    assert proposed(office, 3_610_000) == [("runs", "RUN", 2)]
    assert (proposed(office, 7_209_999), proposed(office, 7_210_000)) == ([], [("waits", "SCHEDULE", 0)])


# --- a new leader -----------------------------------------------------------------------------------------------------


def test_a_new_leader_looks_through_all_of_them_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five with limits where two are looked at in a turn: it looks on at once, and within three turns all is known. One
    has ended meanwhile."""
    assert deadlines_module.LOOKED_AT_A_TURN_MAX == 2_000
    monkeypatch.setattr(deadlines_module, "LOOKED_AT_A_TURN_MAX", 2)
    office = busy()
    office.put(*(spec(f"t{number}", Options(schedule_timeout_ms=1_000)) for number in range(5)))
    office.dispatcher.leave_office()
    office.lead()
    clock = office.dispatcher.deadlines
    assert (clock.next_due_ms(), clock.is_due(0)) == (0, True)
    office.commit([CancelTask(TaskId("t1"), "")])
    assert [time_outs(clock_turn(office, 10_000)) for _ in range(3)] == [[], [], []]
    assert clock.next_due_ms() == 11_000
    found = [name for _ in range(3) for name, _, _ in proposed(office, 11_000)]
    assert found == ["t0", "t2", "t3", "t4"]


def clock_turn(office: Office, at_ms: int) -> list[Command]:
    return list(office.dispatcher.deadlines.due(at_ms, Random(1)))


def test_a_new_leader_times_what_is_leased_from_its_grant() -> None:
    """Gate 8: whoever leads. What the last one proposed and is applied late is refused by then."""
    office = Office(ANA)
    office.submit(spec("a", Options(run_timeout_ms=3_000, progress_timeout_ms=2_000)))
    office.turn()
    office.dispatcher.leave_office()
    office.lead()
    assert proposed(office, 11_999) == []
    assert proposed(office, 12_000) == [("a", "PROGRESS", 2)]
    office.commit([TimeOut(A, FencingToken(2), Limit.RUN, 0)])
    assert list(office.applied.outcomes) == [5]


def test_out_of_office_nothing_is_due() -> None:
    office = busy()
    office.put(spec("a", FULL))
    office.dispatcher.leave_office()
    clock = office.dispatcher.deadlines
    assert (clock.next_due_ms(), clock.is_due(10**12)) == (None, False)
    # Granted in an entry of somebody else's, and heard of as leader again.
    office.commit([GrantLease(A, ANA)])
    office.lead()
    assert office.dispatcher.deadlines.next_due_ms() == 0
