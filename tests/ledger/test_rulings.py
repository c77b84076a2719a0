"""What is decided about the mesh while it runs: its level, its settings, priorities. (Pauses: test_limits. Breakers:
test_breakers.)
"""

import pytest

from mesh.config import LEVEL
from mesh.ids import FencingToken, TaskId
from mesh.ledger.applied import ALREADY, DONE, REFUSED, UNKNOWN
from mesh.ledger.commands import (
    CancelTask,
    FailNode,
    RaiseLevel,
    RedriveTask,
    ReleaseLease,
    Reprioritize,
    SetSetting,
    SubmitTask,
)
from mesh.ledger.settings import BOUNDS, Settings, flaw
from mesh.ledger.task import Kind
from mesh.options import LossPolicy, Options
from tests.ledger.cast import (
    ANA,
    MAIL,
    RESIZE,
    Log,
    Shelf,
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


def line(log: Log) -> list[str]:
    """Who is granted first, second, third; all of them are put back."""
    queue = log.ledger.queue
    tasks = []
    while queue.first("image") is not None:
        tasks.append(take(queue, "image"))
    for one in tasks:
        queue.push(one)
    return [one.task_id for one in tasks]


# --- level and settings -----------------------------------------------------------------------------------------------


def test_the_level_only_goes_up() -> None:
    log = with_nodes(ANA)
    raised = log.apply(RaiseLevel(1), RaiseLevel(1), RaiseLevel(0))
    assert (list(raised.outcomes), details(raised, Kind.LEVEL_RAISED)) == ([DONE, ALREADY, ALREADY], ["1"])
    assert log.ledger.level == 1


def test_a_release_that_does_not_know_the_level_stops() -> None:
    """To go on would be to make another table of the same log."""
    with pytest.raises(AssertionError, match=f"the mesh has gone on to level {LEVEL + 1}, this release knows {LEVEL}"):
        with_nodes(ANA).apply(RaiseLevel(LEVEL + 1))


def test_a_setting_is_changed_within_its_bounds_for_everybody() -> None:
    """S4-22: it is in the events, and nodes are looked at again, because it may be about them."""
    log = levelled(ANA)
    changed = log.apply(SetSetting("strategy", 5), SetSetting("strategy", 5))
    assert (list(changed.outcomes), changed.nodes_changed) == ([DONE, ALREADY], True)
    assert details(changed, Kind.SETTING_CHANGED) == ["strategy 5"]
    assert log.ledger.settings == Settings(strategy=5)


@pytest.mark.parametrize("name", BOUNDS)
def test_a_setting_has_a_lowest_and_a_highest_value(name: str) -> None:
    """Both are allowed, one beyond is not; and what is in force at first is within them."""
    lowest, highest = BOUNDS[name]
    assert lowest <= getattr(Settings(), name) <= highest
    log = levelled(ANA)
    found = log.apply(*(SetSetting(name, value) for value in (lowest - 1, highest + 1)))
    assert list(found.outcomes) == [REFUSED, REFUSED]
    assert set(log.apply(SetSetting(name, lowest), SetSetting(name, highest)).outcomes) <= {DONE, ALREADY}
    assert getattr(log.ledger.settings, name) == highest


def test_what_is_wrong_with_a_setting_is_said_in_a_sentence() -> None:
    assert flaw("breaker_successes", 0) == "breaker_successes lies between 1 and 1000, not at 0"
    assert flaw("colour", 1) == f"no setting is called 'colour'; there are {', '.join(BOUNDS)}"
    assert sorted(BOUNDS) == sorted(Settings.__struct_fields__)
    assert list(levelled().apply(SetSetting("colour", 1)).outcomes) == [REFUSED]


# --- priorities -------------------------------------------------------------------------------------------------------


def test_a_waiting_task_changes_its_place() -> None:
    """S1-09: it stands where it would stand had it come with that priority, when it came."""
    log = levelled(ANA)
    names = [TaskId(name) for name in "abcd"]
    log.apply(*(submit(name, priority=priority) for name, priority in zip(names, (5, 5, 3, 3), strict=True)))
    assert line(log) == ["c", "d", "a", "b"]
    changed = log.apply(Reprioritize(names[1], 3), Reprioritize(names[1], 3))
    assert (list(changed.outcomes), kinds(changed)) == ([DONE, ALREADY], ["task_reprioritized"])
    assert changed.events[0].detail == "from 5 to 3"
    assert line(log) == ["b", "c", "d", "a"]
    log.apply(Reprioritize(names[2], 9))
    assert line(log) == ["b", "d", "a", "c"]


def test_one_that_was_submitted_just_now_changes_its_place_too() -> None:
    """In the very entry, before it has one; and is in line once."""
    log = levelled(ANA)
    log.apply(submit(MAIL), submit(RESIZE), Reprioritize(RESIZE, 1))
    assert line(log) == [RESIZE, MAIL]
    log.apply(CancelTask(RESIZE, ""), Reprioritize(RESIZE, 2), Reprioritize(TaskId("nothing"), 2))
    assert line(log) == [MAIL]


def test_one_for_later_changes_its_place_for_when_its_time_comes() -> None:
    log = levelled(ANA)
    log.apply(SubmitTask(spec(RESIZE, not_before_ms=50_000)), submit(MAIL))
    log.apply(Reprioritize(RESIZE, 1))
    assert (line(log), log.ledger.queue.next_due_ms()) == ([MAIL], 50_000)
    log.ledger.queue.release_due(50_000)
    assert line(log) == [RESIZE, MAIL]
    # And when its time has come but it has not been granted.
    log.apply(Reprioritize(RESIZE, 7), at_ms=50_000)
    log.ledger.queue.release_due(50_000)
    assert line(log) == [MAIL, RESIZE]


def test_a_leased_task_keeps_it_for_when_it_waits_again() -> None:
    """And says it to whoever runs it next."""
    log = levelled(ANA)
    log.apply(submit(RESIZE), submit(MAIL, priority=4), grant(RESIZE, ANA))
    assert list(log.apply(Reprioritize(RESIZE, 1)).outcomes) == [DONE]
    assert (line(log), log.state(RESIZE)) == ([MAIL], "dispatched")
    log.apply(ReleaseLease(RESIZE, FencingToken(3), "x"))
    assert line(log) == [RESIZE, MAIL]
    assert log.apply(grant(RESIZE, ANA)).granted[0].attempt_order(2).priority == 1


def test_a_held_task_and_a_dead_letter_keep_it_for_when_they_are_put_back() -> None:
    """Neither is put in line by it."""
    log = levelled(ANA)
    log.apply(submit(RESIZE, options=Options(on_loss=LossPolicy.HOLD)), submit(MAIL, attempts_max=1))
    log.apply(grant(RESIZE, ANA), grant(MAIL, ANA))
    log.apply(start(RESIZE, 4), fail(MAIL, 4))
    log.apply(FailNode(ANA, 1, "silent"))
    assert list(log.apply(Reprioritize(RESIZE, 2), Reprioritize(MAIL, 1)).outcomes) == [DONE, DONE]
    assert (line(log), log.state(RESIZE), log.state(MAIL)) == ([], "paused", "dead")
    log.apply(RedriveTask(RESIZE), RedriveTask(MAIL))
    assert line(log) == [MAIL, RESIZE]


def test_a_task_that_the_leader_is_about_to_grant_is_not_put_back_in_line() -> None:
    """It has been taken out, and the grant is on its way: in line again, it would be granted a second time."""
    log = levelled(ANA)
    log.apply(submit(RESIZE), submit(MAIL))
    assert take(log.ledger.queue, "image").task_id == RESIZE
    log.apply(Reprioritize(RESIZE, 1))
    assert line(log) == [MAIL]
    log.ledger.queue.push(log.ledger.tasks[RESIZE])
    assert line(log) == [RESIZE, MAIL]


def test_a_changed_priority_is_written_down() -> None:
    """The table taken up again has it too."""
    log = levelled(ANA)
    log.apply(submit(RESIZE), submit(MAIL))
    shelf = Shelf().write(log.ledger)
    log.apply(Reprioritize(MAIL, 1))
    assert line(Log(shelf.write(log.ledger).started())) == [MAIL, RESIZE]


def test_nobody_is_reprioritized_who_is_not_there() -> None:
    assert list(levelled(ANA).apply(Reprioritize(RESIZE, 1)).outcomes) == [UNKNOWN]
