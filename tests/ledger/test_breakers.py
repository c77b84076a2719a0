"""Who has failed again and again is left alone: closed, open, half-open (S2-21 to S2-23, and bug 3 of the seeds).

ana's breaker for `image` opens after three failures here, for ten seconds; two probes close it.
"""

import pytest

from mesh.ids import FencingToken, TaskId
from mesh.ledger import breakers
from mesh.ledger.applied import ALREADY, DONE, REFUSED, Outcome
from mesh.ledger.commands import (
    AdmitNode,
    CancelTask,
    CloseBreaker,
    Command,
    FailNode,
    Limit,
    ReleaseLease,
    SetSetting,
    TimeOut,
)
from mesh.ledger.registry import BREAKERS_MAX, Breaker
from mesh.ledger.settings import Settings
from mesh.ledger.task import Kind
from mesh.options import Options
from tests.ledger.cast import (
    ANA,
    BEN,
    Log,
    Shelf,
    complete,
    details,
    fail,
    grant,
    kinds,
    levelled,
    start,
    submit,
    with_nodes,
)

OPEN_MS = 10_000
NAMES = [TaskId(f"t{number}") for number in range(20)]
PROBE, SECOND, THIRD = TaskId("probe"), TaskId("second"), TaskId("third")


def guarded(*, failures: int = 3, successes: int = 2) -> Log:
    """A log with ana and ben, and breakers that open sooner."""
    log = levelled(ANA, BEN)
    log.apply(
        SetSetting("breaker_failures", failures),
        SetSetting("breaker_successes", successes),
        SetSetting("breaker_open_ms", OPEN_MS),
        at_ms=3_000,
    )
    return log


def attempt(log: Log, name: str, *, at_ms: int, is_good: bool = False) -> list[str]:
    """A task of its own is submitted, granted to ana and reported, in two entries. What the report made happen."""
    task_id = TaskId(name)
    granted = log.apply(submit(task_id, attempts_max=1), grant(task_id, ANA), at_ms=at_ms)
    assert list(granted.outcomes) == [DONE, DONE]
    token = granted.index
    return kinds(log.apply(complete(task_id, token) if is_good else fail(task_id, token), at_ms=at_ms))


def opened(log: Log, at_ms: int = 5_000) -> Log:
    """ana fails three times at `at_ms`."""
    for number in range(3):
        attempt(log, f"bad{number}", at_ms=at_ms)
    return log


def try_to_grant(log: Log, name: TaskId, at_ms: int) -> str:
    """Submit a task and grant it to ana."""
    return Outcome(log.apply(submit(name), grant(name, ANA), at_ms=at_ms).outcomes[1]).name


def breaker(log: Log) -> Breaker:
    return log.ledger.breakers[ANA, "image"]


def word(log: Log, at_ms: int) -> str:
    return breakers.word(breaker(log), at_ms, OPEN_MS)


def probing(log: Log, at_ms: int = 15_000) -> int:
    """ana's breaker is half-open, and the probe is out. Returns its token."""
    assert try_to_grant(opened(log), PROBE, at_ms) == "DONE"
    return int(log.ledger.applied_index)


def test_the_numbers_are_those_of_the_mission() -> None:
    """S2-22."""
    settings = Settings()
    assert (settings.breaker_failures, settings.breaker_successes, settings.breaker_open_ms) == (5, 2, 60_000)


# --- closed -----------------------------------------------------------------------------------------------------------


def test_a_breaker_opens_at_so_many_failures_in_a_row() -> None:
    """S2-22: two failures and it is closed yet; the third opens it, for ana and `image` alone."""
    log = guarded()
    assert attempt(log, "a", at_ms=5_000) == attempt(log, "b", at_ms=5_000) == ["task_failed", "task_dead"]
    assert (breaker(log), word(log, 5_000)) == (Breaker(ANA, "image", failures=2), "closed")
    last = attempt(log, "c", at_ms=5_000)
    assert last == ["task_failed", "breaker_opened", "task_dead"]
    assert (breaker(log).opened_at_ms, word(log, 14_999), word(log, 15_000)) == (5_000, "open", "half_open")
    assert try_to_grant(log, TaskId("d"), 5_000) == "REFUSED"
    elsewhere = log.apply(grant(TaskId("d"), BEN), submit(TaskId("e"), capability="mail"), grant(TaskId("e"), ANA))
    assert list(elsewhere.outcomes) == [DONE, DONE, DONE]


def test_an_attempt_that_goes_well_begins_the_count_anew() -> None:
    """Failures that are not in a row open nothing (S2-22: success resets the count)."""
    log = guarded()
    for number in range(4):
        attempt(log, f"bad{number}", at_ms=5_000)
        attempt(log, f"worse{number}", at_ms=5_000)
        attempt(log, f"good{number}", at_ms=5_000, is_good=True)
    assert log.ledger.breakers == {}


def test_time_that_has_run_out_is_a_failure_and_a_crash_is_one() -> None:
    """C25: whatever the attempt came to nothing by, if it is its own doing."""
    log = guarded(failures=1)
    limited = Options(run_timeout_ms=500)
    log.apply(submit(PROBE, options=limited), grant(PROBE, ANA), at_ms=5_000)
    stopped = log.apply(TimeOut(PROBE, FencingToken(4), Limit.RUN, 0), at_ms=5_500)
    assert details(stopped, Kind.BREAKER_OPENED) == ["image: 1 failures"]


def test_what_is_not_the_nodes_fault_counts_for_nothing() -> None:
    """Releases, cancellations and lost nodes say nothing about a capability, be it a hundred of them."""
    log = guarded(failures=1)
    for number in range(12):
        name = TaskId(f"t{number}")
        log.apply(submit(name), grant(name, ANA))
        token = FencingToken(log.ledger.applied_index)
        log.apply(start(name, token))
        log.apply((ReleaseLease(name, token, "drain"), CancelTask(name, "no"), FailNode(ANA, 1, "silent"))[number % 3])
        log.apply(AdmitNode(ANA, 1))
    assert log.ledger.breakers == {}


def test_with_the_number_at_zero_none_is_ever_opened() -> None:
    log = guarded(failures=0)
    for name in NAMES:
        attempt(log, name, at_ms=5_000)
    assert log.ledger.breakers == {}


def test_before_the_mesh_knows_breakers_there_are_none() -> None:
    """At level 0 a release of before may be among the replicas."""
    log = with_nodes(ANA)
    for name in NAMES:
        attempt(log, name, at_ms=5_000)
    assert log.ledger.breakers == {}


# --- open and half-open -----------------------------------------------------------------------------------------------


def test_an_open_breaker_lets_nothing_through_until_its_time_has_passed() -> None:
    """To the millisecond; then exactly one, the probe. Nobody else is let through while it is out."""
    log = opened(guarded())
    assert try_to_grant(log, PROBE, 14_999) == "REFUSED"
    probed = log.apply(grant(PROBE, ANA), submit(SECOND), grant(SECOND, ANA), at_ms=15_000)
    assert list(probed.outcomes) == [DONE, DONE, REFUSED]
    assert details(probed, Kind.BREAKER_PROBED) == ["image"]
    assert list(log.apply(grant(SECOND, ANA), at_ms=99_000).outcomes) == [REFUSED]
    assert (breaker(log).probe_id, int(breaker(log).probe_token)) == (PROBE, probed.index)


def test_probes_that_go_well_close_it_when_they_are_enough() -> None:
    """S2-22: two. After the first one the next probe may go, in the same entry, and again only one."""
    log = guarded()
    token = probing(log)
    log.apply(submit(SECOND), submit(THIRD))
    well = log.apply(complete(PROBE, token), grant(SECOND, ANA), grant(THIRD, ANA), at_ms=16_000)
    assert list(well.outcomes) == [DONE, DONE, REFUSED]
    assert breaker(log).successes == 1
    closed = log.apply(complete(SECOND, well.index), grant(THIRD, ANA), at_ms=16_500)
    assert (kinds(closed), log.ledger.breakers) == (["breaker_closed", "task_completed", "task_dispatched"], {})


def test_a_probe_that_fails_opens_it_again_even_after_one_that_went_well() -> None:
    """Bug 3 of the seeds: theirs stayed half-open. It is open for the whole time again, and the count begins anew."""
    log = guarded()
    token = probing(log)
    well = log.apply(complete(PROBE, token), submit(SECOND), grant(SECOND, ANA), at_ms=16_000)
    failed = log.apply(fail(SECOND, well.index, final=True), at_ms=17_000)
    assert kinds(failed) == ["task_failed", "breaker_opened", "task_dead"]
    assert (breaker(log).opened_at_ms, breaker(log).successes) == (17_000, 0)
    assert try_to_grant(log, THIRD, 26_999) == "REFUSED"
    log.apply(grant(THIRD, ANA), at_ms=27_000)
    log.apply(complete(THIRD, log.ledger.applied_index), at_ms=27_000)
    assert breaker(log).successes == 1


def test_a_probe_that_tells_nothing_makes_way_for_another() -> None:
    """Given back, cancelled, or lost with its node: the next probe may go at once, and nothing has been learnt."""
    for ending in (
        ReleaseLease(PROBE, FencingToken(10), "drain"),
        CancelTask(PROBE, "no"),
        FailNode(ANA, 1, "silent"),
    ):
        log = guarded()
        assert probing(log) == 10
        back: list[Command] = [submit(SECOND), ending, AdmitNode(ANA, 1), grant(SECOND, ANA)]
        assert list(log.apply(*back, at_ms=16_000).outcomes)[3] == DONE
        assert (breaker(log).probe_id, breaker(log).successes, breaker(log).opened_at_ms) == (SECOND, 0, 5_000)


def test_a_probe_whose_time_runs_out_opens_it_again() -> None:
    log = guarded()
    opened(log)
    log.apply(submit(PROBE, options=Options(run_timeout_ms=500)), grant(PROBE, ANA), at_ms=15_000)
    token = FencingToken(log.ledger.applied_index)
    log.apply(TimeOut(PROBE, token, Limit.RUN, 0), at_ms=15_500)
    assert breaker(log).opened_at_ms == 15_500


def test_what_began_before_it_opened_is_no_probe() -> None:
    """Three slow ones were granted while all seemed well. One ends well while the breaker is open, two when it is
    half-open, one of those badly: nothing has been tried since, so it is neither closed nor opened by them."""
    log = guarded()
    slow = NAMES[:4]
    token = log.apply(*(submit(name) for name in slow), *(grant(name, ANA) for name in slow), at_ms=4_000).index
    opened(log)
    log.apply(complete(slow[0], token), complete(slow[1], token), at_ms=6_000)
    assert (word(log, 6_000), breaker(log).successes) == ("open", 0)
    assert kinds(log.apply(fail(slow[2], token, final=True), at_ms=6_000)) == ["task_failed", "task_dead"]
    log.apply(complete(slow[3], token), at_ms=15_000)
    assert (word(log, 15_000), breaker(log).successes, breaker(log).opened_at_ms) == ("half_open", 0, 5_000)
    assert try_to_grant(log, PROBE, 15_000) == "DONE"


def test_a_failure_of_what_began_before_it_opened_does_not_take_the_probe_away() -> None:
    """It comes in while the probe is out; the probe alone decides."""
    log = guarded(successes=1)
    slow = NAMES[0]
    token = log.apply(submit(slow), grant(slow, ANA), at_ms=4_000).index
    probe = probing(log)
    log.apply(fail(slow, token, final=True), at_ms=15_500)
    assert word(log, 15_500) == "half_open"
    assert kinds(log.apply(complete(PROBE, probe), at_ms=16_000)) == ["breaker_closed", "task_completed"]


def test_a_late_result_of_a_lost_probe_is_taken_and_closes_nothing() -> None:
    """ana was given up while she ran it. The result counts (E.4), and says nothing about ana as she is now."""
    log = guarded(successes=1)
    token = probing(log)
    log.apply(FailNode(ANA, 1, "silent"), AdmitNode(ANA, 1), at_ms=16_000)
    assert kinds(log.apply(complete(PROBE, token), at_ms=17_000)) == ["task_completed"]
    assert word(log, 17_000) == "half_open"


# --- orders and other lives -------------------------------------------------------------------------------------------


def test_a_person_closes_it() -> None:
    """Open or not; there is none after that."""
    log = opened(guarded())
    closed = log.apply(CloseBreaker(ANA, "image"), CloseBreaker(ANA, "image"))
    assert (list(closed.outcomes), details(closed, Kind.BREAKER_CLOSED)) == ([DONE, ALREADY], ["image, by hand"])
    assert try_to_grant(log, PROBE, 9_000) == "DONE"


def test_another_life_of_a_node_is_not_held_to_the_last_one() -> None:
    """ana restarts: her breakers are forgotten, ben's stay. Given up and back in the same life, she keeps hers."""
    log = opened(guarded())
    log.ledger.breakers[BEN, "image"] = Breaker(BEN, "image", 1)
    log.apply(FailNode(ANA, 1, "silent"), AdmitNode(ANA, 1), at_ms=6_000)
    assert word(log, 6_000) == "open"
    log.apply(AdmitNode(ANA, 2), at_ms=6_000)
    assert log.ledger.breakers == {(BEN, "image"): Breaker(BEN, "image", 1)}
    assert try_to_grant(log, PROBE, 6_000) == "DONE"


def test_breakers_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is kept here: further ones are not counted, and the one that is goes on."""
    assert BREAKERS_MAX == 10_000
    monkeypatch.setattr(breakers, "BREAKERS_MAX", 1)
    log = guarded(failures=2)
    attempt(log, "a", at_ms=5_000)
    for number in range(3):
        name = TaskId(f"m{number}")
        log.apply(submit(name, capability="mail", attempts_max=1), grant(name, ANA), at_ms=5_000)
        log.apply(fail(name, log.ledger.applied_index), at_ms=5_000)
    assert list(log.ledger.breakers) == [(ANA, "image")]
    assert "breaker_opened" in attempt(log, "b", at_ms=5_000)


def test_a_probe_that_is_out_is_known_after_a_restart() -> None:
    """S2-23: no second probe is sent by whoever takes the table up again, and the first one decides."""
    log = guarded()
    token = probing(log)
    shelf = Shelf().write(log.ledger)
    for taken_up in (shelf.started(), shelf.handed_over()):
        again = Log(taken_up)
        assert try_to_grant(again, SECOND, 16_000) == "REFUSED"
        again.apply(complete(PROBE, token), at_ms=16_000)
        assert again.ledger.breakers[ANA, "image"].successes == 1
        assert list(again.apply(grant(SECOND, ANA), at_ms=16_000).outcomes) == [DONE]
