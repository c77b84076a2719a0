"""Whose turn it is: by priority, which waiting makes more urgent, then by fair shares, then by who came first."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.dispatch import turns
from mesh.dispatch.turns import Line, Turns
from mesh.ids import TaskId
from mesh.ledger.queue import AGEING_PRIORITY_MIN, Lane, Queue
from mesh.ledger.settings import Settings
from mesh.ledger.task import PENDING, SCHEDULED, Task
from mesh.messages import TaskSpec
from mesh.options import Concurrency, Options
from tests.dispatch.cast import ANA, Office, spec

STRICT = Settings(ageing_ms=0, oldest_every=0)
"""Neither ageing nor a share for the oldest."""
MINUTE_MS = 60_000
OFFERED = {"code": None, "mail": None}


def task(
    name: str,
    order: int,
    *,
    priority: int = 5,
    capability: str = "code",
    options: Options | None = None,
    at_ms: int = 0,
    not_before_ms: int = 0,
) -> Task:
    made = Task(TaskSpec(TaskId(name), capability, b"", priority, options=options), order, PENDING, at_ms, [])
    made.not_before_ms = not_before_ms
    return made


def fair(name: str, order: int, key: str, *, weight: int = 1_000, priority: int = 5) -> Task:
    return task(name, order, priority=priority, options=Options(fairness=key, weight_permille=weight))


class Bench:
    """A queue, and the turns taken at it: as many as are asked for, one entry each."""

    def __init__(self, tasks: Iterable[Task], settings: Settings = STRICT) -> None:
        self.queue = Queue()
        for one in tasks:
            self.queue.push(one)
        self.settings = settings
        self.turns = Turns()
        self.at_ms = 0

    def line(self) -> Line:
        return self.turns.line(self.queue, OFFERED, self.at_ms, self.settings, lambda lane: True)

    def take(self, count: int = 1_000_000) -> list[str]:
        """One entry: the next so many, in order."""
        taken: list[str] = []
        line = self.line()
        for lane, one in line:
            if len(taken) == count:
                break
            self.queue.take(one)
            line.granted(lane)
            taken.append(one.task_id)
        return taken


# --- priority, then order ---------------------------------------------------------------------------------------------


def test_the_lower_number_first_then_whoever_came_first_whatever_the_lane() -> None:
    """S0-12, S1-09: over capabilities and over lanes with demands of their own, by the commit index."""
    gpu = Options(require=(("gpu", "yes"),))
    bench = Bench(
        [
            task("e", 50),
            task("d", 40, capability="mail"),
            task("b", 20, options=gpu),
            task("c", 30),
            task("f", 1, priority=6),
            task("a", 90, priority=0, capability="mail"),
        ]
    )
    assert bench.take() == ["a", "b", "c", "d", "e", "f"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["code", "mail"]), st.booleans()), max_size=40))
def test_within_a_priority_it_is_first_come_first_served(wanted: list[tuple[int, str, bool]]) -> None:
    """S1-09, for any mix of priorities, capabilities and demands."""
    tasks = [
        task(
            str(order),
            order,
            priority=priority,
            capability=capability,
            options=Options(avoid=(("x", "y"),)) if is_choosy else None,
        )
        for order, (priority, capability, is_choosy) in enumerate(wanted)
    ]
    expected = sorted(tasks, key=lambda one: (one.spec.priority, one.order))
    assert Bench(tasks).take() == [one.task_id for one in expected]


def test_what_nobody_offers_does_not_stand_in_line() -> None:
    bench = Bench([task("a", 1, capability="paint"), task("b", 2)])
    assert bench.take() == ["b"]


def test_where_nobody_is_free_for_one_nobody_is_for_all_that_demand_the_same() -> None:
    """They are left out of this entry, whatever their limits and keys; others are not."""
    key = Options(concurrency=Concurrency("door", 1))
    tasks = [task("a", 1), task("b", 2, options=key), task("c", 3, options=Options(fairness="eva"))]
    bench = Bench([*tasks, task("m", 4, capability="mail")])
    line = bench.line()
    first = line.next()
    assert first is not None and first[1].task_id == "a"
    line.leave_out(first[0])
    second = line.next()
    assert second is not None and second[1].task_id == "m"


def test_a_lane_that_is_passed_over_makes_way_for_the_next() -> None:
    """Only that one, and whether it is at the front or not."""
    bench = Bench([task("a", 1), task("b", 2, options=Options(fairness="eva")), task("m", 3, capability="mail")])
    for names, left in ((["a", "b"], "m"), (["b", "a"], "m"), (["m"], "a")):
        line = bench.line()
        lanes = {one.task_id: lane for lane, one in all_of(bench)}
        for name in names:
            line.pass_over(lanes[TaskId(name)])
        turn = line.next()
        assert turn is not None and turn[1].task_id == left


def all_of(bench: Bench) -> list[tuple[Lane, Task]]:
    return [(lane, lane.first(0, 0, 0)[2]) for lane in bench.queue.lanes.values()]


# --- ageing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waited_ms", "effective"), [(0, 8), (59_999, 8), (60_000, 7), (179_999, 6), (240_000, 4), (10**12, 4)]
)
def test_each_minute_of_waiting_is_a_step_and_four_are_all(waited_ms: int, effective: int) -> None:
    """E.9: floor(waited / 60 s), at most four steps."""
    queue = Queue()
    queue.push(task("low", 1, priority=8, at_ms=5_000))
    lane = queue.lane("code")
    assert lane is not None
    assert lane.first(5_000 + waited_ms, MINUTE_MS, 4)[0] == effective


@pytest.mark.parametrize(("priority", "effective"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (6, 2), (7, 3)])
def test_waiting_makes_nobody_urgent(priority: int, effective: int) -> None:
    """E.9: it never enters lanes 0 and 1. What is in them stays there."""
    assert AGEING_PRIORITY_MIN == 2
    queue = Queue()
    queue.push(task("t", 1, priority=priority))
    lane = queue.lane("code")
    assert lane is not None
    assert lane.first(10**9, MINUTE_MS, 4)[0] == effective


def test_a_task_for_later_ages_from_its_time_on() -> None:
    """And one that is to be tried again, from then. One from the future, by the clock of another leader, not at all."""
    queue = Queue()
    queue.push(task("later", 1, priority=8, not_before_ms=100_000))
    lane = queue.lane("code")
    assert lane is not None
    assert [lane.first(at_ms, MINUTE_MS, 4)[0] for at_ms in (0, 159_999, 160_000)] == [8, 8, 7]


def test_who_has_aged_stands_where_that_priority_stands_by_order() -> None:
    """low came first and has waited three minutes; normal comes now, with the same number: first come, first served."""
    low, normal = task("low", 1, priority=8), task("normal", 2, priority=5, at_ms=180_000)
    bench = Bench([normal, low], Settings(oldest_every=0))
    bench.at_ms = 179_999
    assert bench.line().next() == (bench.queue.lanes["code"], normal)
    bench.at_ms = 180_000
    assert bench.take() == ["low", "normal"]


def test_low_priority_runs_within_the_ageing_bound_under_constant_load() -> None:
    """Gate 9: with one slot and normal work without an end, each a second long, a low one (8) waits for three minutes:
    then it counts as normal, and came first. Without ageing it waits as long as the work lasts."""
    for ageing_ms, expected in ((60_000, 180), (0, None)):
        bench = Bench([task("low", 0, priority=8)], Settings(ageing_ms=ageing_ms, oldest_every=0))
        found = None
        for second in range(400):
            bench.at_ms = second * 1_000
            bench.queue.push(task(f"n{second}", second + 1, at_ms=bench.at_ms))
            if bench.take(1) == ["low"]:
                found = second
                break
        assert found == expected


# --- the oldest -------------------------------------------------------------------------------------------------------


def test_one_grant_in_twenty_goes_to_whoever_has_waited_longest() -> None:
    """E.9, S4-40: whatever its priority, so that nothing starves, though ageing alone would never bring it this far."""
    urgent = [task(f"u{number}", number + 10, priority=0) for number in range(60)]
    old = [task("old", 1, priority=200), task("older", 0, priority=255, capability="mail")]
    bench = Bench([*urgent, *old], Settings(ageing_ms=0))
    taken = bench.take()
    assert (taken[19], taken[39], bench.turns.granted) == ("older", "old", 62)
    assert [name for name in taken if name.startswith("u")] == [f"u{number}" for number in range(60)]


def test_the_share_of_the_oldest_is_kept_over_entries_and_can_be_set() -> None:
    """One in three here, one at a time; where the oldest has no node that is free, the next oldest has it."""
    urgent = [task(f"u{number}", number + 10, priority=0) for number in range(6)]
    old = [task("x", 0, priority=9, capability="mail"), task("y", 1, priority=9), task("z", 2, priority=9)]
    bench = Bench([*urgent, *old], Settings(ageing_ms=0, oldest_every=3))
    assert [bench.take(1) for _ in range(2)] == [["u0"], ["u1"]]
    line = bench.line()
    turn = line.next()
    assert turn is not None and turn[1].task_id == "x"
    line.leave_out(turn[0])
    turn = line.next()
    assert turn is not None and turn[1].task_id == "y"
    assert bench.take(4) == ["x", "u2", "u3", "y"]


def test_where_nobody_can_be_granted_the_oldest_cannot_either() -> None:
    bench = Bench([task("a", 1)], Settings(oldest_every=1))
    line = bench.line()
    turn = line.next()
    assert turn is not None
    line.leave_out(turn[0])
    assert line.next() is None
    assert Bench([]).line().next() is None


# --- fair shares ------------------------------------------------------------------------------------------------------


def test_two_keys_take_turns_however_long_their_lines_are() -> None:
    """E.8, gate 9: ana submits 10,000, then ben 10. His last one is the twentieth or so that is granted."""
    many = [fair(f"a{number}", number, "ana") for number in range(10_000)]
    few = [fair(f"b{number}", 10_000 + number, "ben") for number in range(10)]
    bench = Bench([*many, *few])
    taken = bench.take(30)
    assert taken.index("b9") <= 20
    assert [name for name in taken if name[0] == "b"] == [f"b{number}" for number in range(10)]
    assert [name for name in taken if name[0] == "a"] == [f"a{number}" for number in range(20)]


def test_weights_are_shares() -> None:
    """Three to one, and a half: of 90 grants 60, 20 and 10."""
    lines = [
        fair(f"{key}{number}", number, key, weight=weight)
        for key, weight in (("a", 3_000), ("b", 1_000), ("c", 500))
        for number in range(100)
    ]
    taken = Bench(lines).take(90)
    shares = {key: sum(name[0] == key for name in taken) for key in "abc"}
    assert all(abs(shares[key] - share) <= 1 for key, share in (("a", 60), ("b", 20), ("c", 10)))
    # And never long without: of any ten in a row one is of the least.
    assert all("c" in {name[0] for name in taken[at : at + 10]} for at in range(81))


def test_who_had_nothing_to_do_does_not_save_up() -> None:
    """ben comes when ana has had a hundred: they take turns from then on, he gets no hundred first."""
    bench = Bench([fair(f"a{number}", number, "ana") for number in range(200)])
    bench.take(100)
    for number in range(50):
        bench.queue.push(fair(f"b{number}", 1_000 + number, "ben"))
    taken = bench.take(20)
    assert sum(name[0] == "b" for name in taken) in (10, 11)


def test_tasks_without_a_key_are_one_of_those_that_take_turns() -> None:
    """Plain ones wait in a lane of their own, and share like everybody else."""
    plain = [task(f"p{number}", number) for number in range(100)]
    keyed = [fair(f"a{number}", 100 + number, "ana") for number in range(100)]
    taken = Bench([*plain, *keyed]).take(20)
    assert sum(name[0] == "p" for name in taken) in (10, 11)


def test_shares_are_within_a_priority_and_a_capability() -> None:
    """Urgent ones go first whatever their key has had; what it has had of one capability is no other one's matter."""
    bench = Bench([fair(f"a{number}", number, "ana") for number in range(20)])
    bench.take(10)
    bench.queue.push(fair("urgent", 99, "ana", priority=1))
    bench.queue.push(fair("ben", 100, "ben"))
    other = task("mail", 5, capability="mail", options=Options(fairness="ana"))
    bench.queue.push(other)
    assert bench.take(3) == ["urgent", "mail", "ben"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([500, 1_000, 4_000])), min_size=1, max_size=60))
def test_nobody_is_forgotten_whatever_keys_and_weights_there_are(wanted: list[tuple[str, int]]) -> None:
    """Everything is granted once, and within a key of one weight in the order it came."""
    tasks = [fair(f"{key}{weight}-{order:03}", order, key, weight=weight) for order, (key, weight) in enumerate(wanted)]
    taken = Bench(tasks).take()
    assert sorted(taken) == sorted(one.task_id for one in tasks)
    for prefix in {name.partition("-")[0] for name in taken}:
        of_one = [name for name in taken if name.startswith(prefix + "-")]
        assert of_one == sorted(of_one)


def test_what_is_remembered_of_shares_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred users with a key each, where ten are remembered; those that are furthest ahead are the last to be
    forgotten, and everything is granted all the same."""
    assert turns.MARKS_MAX == 10_000
    monkeypatch.setattr(turns, "MARKS_MAX", 10)
    light = [fair(f"l{number:02}", number, f"l{number}", weight=1) for number in range(3)]
    users = [fair(f"u{number:02}", 10 + number, f"u{number}") for number in range(100)]
    again = [fair(f"again{number}", 200 + number, f"l{number}", weight=1) for number in range(3)]
    bench = Bench([*light, *users, *again])
    taken = []
    while one := bench.take(1):
        taken += one
        assert len(bench.turns._marks) <= 10
    assert (len(taken), sorted(taken[-3:])) == (106, ["again0", "again1", "again2"])


def test_another_leader_begins_with_equal_shares() -> None:
    """What the last one gave is not held against anybody: boss is followed by another in the middle of it."""
    office = Office(ANA, slots=100)
    for number in range(20):
        office.put(spec(f"a{number}", Options(fairness="ana")))
    office.beat(ANA, slots=4)
    office.turn()
    office.put(*(spec(f"b{number}", Options(fairness="ben")) for number in range(20)))
    office.dispatcher.leave_office()
    office.lead()
    office.beat(ANA, slots=14)
    assert sorted(name[0] for name, _ in office.grants()) == ["a"] * 5 + ["b"] * 5


# --- many lanes -------------------------------------------------------------------------------------------------------


def test_of_more_lanes_than_are_looked_at_each_gets_its_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven users' lanes of which three are looked at for one entry: within three entries all have been."""
    assert turns.LANES_A_TURN_MAX == 1_000
    monkeypatch.setattr(turns, "LANES_A_TURN_MAX", 3)
    bench = Bench(
        [task(f"t{number}", number, options=Options(concurrency=Concurrency(f"u{number}", 1))) for number in range(7)]
    )
    looked_at = [[lane.concurrency.key for lane in bench.turns._looked_at(bench.queue, OFFERED)] for _ in range(3)]  # type: ignore[union-attr]
    assert looked_at == [["u0", "u1", "u2"], ["u3", "u4", "u5"], ["u6", "u0", "u1"]]
    assert len(bench.take() + bench.take() + bench.take()) == 7


def test_a_lane_that_closed_is_not_in_line() -> None:
    """Its last task was cancelled; that of another was put off."""
    gone, put_off, here = task("gone", 1), task("off", 2, capability="mail"), fair("here", 3, "ana")
    put_off.state = SCHEDULED
    put_off.not_before_ms = 99
    bench = Bench([gone, put_off, here])
    gone.state = 8
    bench.queue.remove(gone)
    assert bench.take() == ["here"]
    bench.queue.release_due(99)
    assert bench.take() == ["off"]
