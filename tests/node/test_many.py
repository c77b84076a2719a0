"""Orders that mean many tasks (S1-33 to S1-35, S4-03; S0-06): who is meant, what was done, said once and on record."""

from typing import Any

import msgspec
import pytest

from mesh.documents import EventPage, Touched
from mesh.ids import LogIndex, TaskId, Term
from mesh.ledger.task import (
    CANCELLED,
    COMPLETED,
    DEAD,
    DISPATCHED,
    FAILED,
    PAUSED,
    PENDING,
    RUNNING,
    SCHEDULED,
    STATE_NAMES,
)
from mesh.messages import Action, AppendReply, Code, Order, Question, Vote
from mesh.node import many, sweeps
from mesh.options import Dependents, LossPolicy, Options, Selection
from mesh.wire.codec import encode
from tests.node.client import Client, spec
from tests.node.trio import ANA, BEN, EVA, Trio, settled

NO_SELECTION = "a selection names states there are, a limit from 1 on, and what becomes of dependents"
RUNS_ON = {"a1": ANA, "b1": BEN, "c1": EVA}


def motley() -> tuple[Trio, Client]:
    """a1, b1 and c1 hold the only slot of ana, ben and eva. Of the rest: w1 and w2 wait for a slot, n1 for a capability
    that nobody has, s1 for its time; d1 is a dead letter, and was searching.
    """
    trio = settled(slots=1, capabilities=("code", "search"))
    client = trio.client(BEN)
    client.submit(spec("d1", capability="search", attempts_max=1), watch=False)
    trio.run(20)
    trio.ends(ANA, "d1", 4, error="ValueError: no")
    trio.run(20)
    client.submit(spec("b1", priority=1), spec("c1", priority=5), spec("a1", priority=8), watch=False)
    trio.run(20)
    client.submit(
        spec("w1", priority=5),
        spec("w2", priority=9, capability="search"),
        spec("n1", priority=9, capability="nobody"),
        spec("s1", priority=5, after_ms=60_000),
        watch=False,
    )
    trio.run(20)
    held = {task: host.name for host in trio.hosts.values() for task, _ in host.node.holding.attempts.held()}
    assert held == RUNS_ON
    assert states(trio) == {
        "a1": "dispatched",
        "b1": "dispatched",
        "c1": "dispatched",
        "d1": "dead",
        "n1": "pending",
        "s1": "scheduled",
        "w1": "pending",
        "w2": "pending",
    }
    client.heard.clear()
    return trio, client


def states(trio: Trio) -> dict[str, str]:
    """By id, in order of it."""
    tasks = trio.leader.node.ledger.tasks
    return {task_id: STATE_NAMES[task.state] for task_id, task in sorted(tasks.items())}


def order(
    client: Client, action: Action, selection: Selection | None = None, target: str = "", reason: str = ""
) -> int:
    return client.order(action, target, reason=reason, value=b"" if selection is None else encode(selection))


def touched(trio: Trio, client: Client, action: Action, selection: Selection | None = None, **fields: Any) -> Touched:
    """Order it, and read the one answer."""
    asked = order(client, action, selection, **fields)
    trio.run(50)
    return client.document(asked, Touched)


def ids(*names: str) -> tuple[TaskId, ...]:
    return tuple(TaskId(name) for name in names)


@pytest.mark.parametrize(
    ("selection", "meant"),
    [
        (Selection(task_ids=ids("w1", "c1", "w1", "nothing")), ["c1", "w1"]),
        (Selection(task_ids=ids("d1")), ["d1"]),
        (Selection(node="ben"), ["b1"]),
        (Selection(node="zoe"), []),
        (Selection(capability="search"), ["w2"]),
        (Selection(priority_min=8), ["a1", "n1", "w2"]),
        (Selection(priority_max=4), ["b1"]),
        (Selection(priority_min=5, priority_max=8), ["a1", "c1", "s1", "w1"]),
        (Selection(states=(PENDING,)), ["n1", "w1", "w2"]),
        (Selection(states=(SCHEDULED, DEAD)), ["d1", "s1"]),
        (Selection(states=(RUNNING,)), ["a1", "b1", "c1"]),
        (Selection(states=(COMPLETED,)), []),
        (Selection(error="ValueError", states=(DEAD,)), ["d1"]),
        (Selection(error="ValueError"), []),
        (Selection(capability="code", priority_max=5, states=(PENDING, RUNNING)), ["b1", "c1", "w1"]),
        (Selection(capability="code", node="eva", priority_min=5, states=(DISPATCHED,)), ["c1"]),
        (Selection(), ["a1", "b1", "c1", "n1", "s1", "w1", "w2"]),
    ],
)
def test_whoever_is_meant_is_cancelled_and_nobody_else(selection: Selection, meant: list[str]) -> None:
    """S1-33: by id, holder, capability, priority, state, last error, and all of them together. Whoever runs is running,
    begun or not. A dead letter is cancelled only by its name, or by that of its state. First the dry run (S1-34).
    """
    trio, client = motley()
    before = states(trio)
    dry = msgspec.structs.replace(selection, is_dry=True)
    said = touched(trio, client, Action.CANCEL_MANY, dry)
    assert (sorted(said.ids), said.count, said.dependents, said.is_dry) == (meant, len(meant), [], True)
    assert states(trio) == before
    said = touched(trio, client, Action.CANCEL_MANY, selection)
    assert (sorted(said.ids), said.count, said.dependents, said.is_dry) == (meant, len(meant), [], False)
    assert states(trio).keys() == before.keys() - set(meant)
    assert trio.leader.node.ledger.counts[CANCELLED] == len(meant)
    stopped = {name: host.name for host in trio.hosts.values() for name, _ in host.stopped}
    assert stopped == {name: RUNS_ON[name] for name in meant if name in RUNS_ON}


def test_the_answer_says_how_many_and_comes_when_they_are_on_record() -> None:
    """Nothing is said while the followers' disks hang."""
    trio, client = motley()
    trio[BEN].is_disk_stuck = trio[EVA].is_disk_stuck = True
    asked = order(client, Action.CANCEL_MANY, Selection(states=(PENDING,)), reason="enough")
    trio.run(200)
    assert client.answers(asked) == []
    trio.sync(EVA)
    trio.run(10)
    assert client.answers(asked) == [(Code.OK, "3 tasks")]
    assert client.task("w2").history[-1].detail == "enough"


def test_what_ends_meanwhile_is_not_counted() -> None:
    """b1 completes in the very entry before its cancellation: it was meant, and it was not cancelled."""
    trio, client = motley()
    ana = trio.client(ANA)
    trio.ends(ANA, "a1", 6)
    asked = order(ana, Action.CANCEL_MANY, Selection(task_ids=ids("a1", "w1")))
    trio.run(50)
    assert ana.document(asked, Touched) == Touched(1, ["a1", "w1"], [], False, ["a1"])
    assert (client.task("a1").state, client.task("w1").state) == ("completed", "cancelled")


# --- dependents ---


def family(**settings: Any) -> tuple[Trio, Client]:
    """top runs; its code has submitted one and two, one's has submitted three. four is nobody's child. two is dead."""
    trio = settled(slots=16, **settings)
    client = trio.client(BEN)
    client.submit(spec("two", attempts_max=1, options=Options(parent=TaskId("top"))), watch=False)
    trio.run(20)
    trio.ends(ANA, "two", 4, error="no")
    trio.run(20)
    client.submit(
        spec("top", priority=2),
        spec("one", options=Options(parent=TaskId("top"))),
        spec("three", options=Options(parent=TaskId("one"))),
        spec("four"),
        watch=False,
    )
    trio.run(20)
    return trio, client


def test_dependents_are_named_and_left_alone_unless_somebody_says_so() -> None:
    """S1-35: the live tasks that top's code submitted, and theirs; two is dead already."""
    trio, client = family()
    meant = Selection(task_ids=ids("top"), is_dry=True)
    assert touched(trio, client, Action.CANCEL_MANY, meant) == Touched(1, ["top"], ["one", "three"], is_dry=True)
    meant = Selection(task_ids=ids("top"))
    assert touched(trio, client, Action.CANCEL_MANY, meant) == Touched(1, ["top"], ["one", "three"])
    assert states(trio) == {"four": "dispatched", "one": "dispatched", "three": "dispatched", "two": "dead"}


def test_dependents_are_cancelled_with_whoever_submitted_them() -> None:
    """S1-35: they first, so that whoever gives the order again, after half of it was done, finds the rest."""
    trio, client = family()
    meant = Selection(task_ids=ids("top"), dependents=Dependents.CANCEL, is_dry=True)
    said = Touched(3, ["three", "one", "top"], ["one", "three"], is_dry=True)
    assert touched(trio, client, Action.CANCEL_MANY, meant) == said
    meant = msgspec.structs.replace(meant, is_dry=False)
    assert touched(trio, client, Action.CANCEL_MANY, meant) == msgspec.structs.replace(said, is_dry=False)
    assert states(trio) == {"four": "dispatched", "two": "dead"}


def test_whoever_is_meant_and_a_dependent_is_counted_once() -> None:
    trio, client = family()
    meant = Selection(priority_min=5, dependents=Dependents.CANCEL)
    said = touched(trio, client, Action.CANCEL_MANY, meant)
    assert (said.count, sorted(said.ids), said.dependents) == (3, ["four", "one", "three"], [])
    assert states(trio) == {"top": "dispatched", "two": "dead"}


def test_no_more_are_touched_than_the_limit() -> None:
    """Dependents count. Given again and again the same order does it all."""
    trio, client = family()
    meant = Selection(task_ids=ids("top"), dependents=Dependents.CANCEL, limit=2)
    assert touched(trio, client, Action.CANCEL_MANY, meant) == Touched(2, ["three", "one"], ["one", "three"])
    assert touched(trio, client, Action.CANCEL_MANY, meant) == Touched(1, ["top"], [])
    assert touched(trio, client, Action.CANCEL_MANY, meant) == Touched(0, [], [])


def test_when_the_leader_dies_half_way_dependents_are_found_by_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """One command at a time is proposed. ana dies when one is done; ben is told the same, and does the rest."""
    monkeypatch.setattr(many, "AT_ONCE_MAX", 1)
    trio, client = family()
    meant = Selection(task_ids=ids("top"), dependents=Dependents.CANCEL)
    ana = trio.client(ANA)
    asked = order(ana, Action.CANCEL_MANY, meant)
    while trio.leader.node.ledger.counts[CANCELLED] < 1:
        trio.run(1)
    trio.kill(ANA)
    trio.run(3_000)
    assert ana.answers(asked) == []
    assert trio.leader.name == BEN
    left = [name for name in ("top", "one", "three") if name in states(trio)]
    assert 0 < len(left) < 3
    said = touched(trio, client, Action.CANCEL_MANY, meant)
    assert sorted(said.ids) == sorted(left)
    assert states(trio).keys() == {"four", "two"}


# --- clear ---


def test_clear_cancels_what_waits_under_a_priority_and_writes_it_down() -> None:
    """S4-03: w1 and s1 wait under 5; c1 runs under 5 and goes on. Each is cancelled for a reason, and in the events."""
    trio, client = motley()
    said = touched(trio, client, Action.CLEAR, target="5")
    assert (said.count, sorted(said.ids), said.is_dry) == (2, ["s1", "w1"], False)
    assert set(states(trio)) == {"a1", "b1", "c1", "d1", "n1", "w2"}
    for name in ("w1", "s1"):
        task = client.task(name)
        assert (task.state, task.history[-1].event) == ("cancelled", "task_cancelled")
        assert task.history[-1].detail == "its priority was cleared"
    page = client.now(Question.EVENTS, EventPage, limit=1_000)
    told = {(line.task, line.detail) for line in page.events if line.event == "task_cancelled"}
    assert told == {("w1", "its priority was cleared"), ("s1", "its priority was cleared")}


def test_clear_with_a_reason_and_of_a_priority_below_zero() -> None:
    trio, client = motley()
    client.submit(spec("m1", priority=-5, capability="nobody"), watch=False)
    trio.run(20)
    said = touched(trio, client, Action.CLEAR, target="-5", reason="by mistake")
    assert (said.count, said.ids) == (1, ["m1"])
    assert client.task("m1").history[-1].detail == "by mistake"


@pytest.mark.parametrize("target", ["", "urgent", "--5", "5-", "1_0", "٣", "12345678", "1.0", "- 1"])
def test_a_priority_to_clear_is_a_number(target: str) -> None:
    trio, client = motley()
    asked = client.order(Action.CLEAR, target)
    trio.run(20)
    assert client.answers(asked) == [(Code.INVALID, f"a priority is a number, not {target!r}")]
    assert len(states(trio)) == 8


# --- dead letters ---


def graves(trio: Trio) -> Client:
    """d1 and d2 died of a ValueError, d3 of a KeyError, and was searching. h1 is held: its node was lost under it."""
    client = trio.client(ANA)
    client.submit(
        spec("d1", attempts_max=1),
        spec("d2", attempts_max=1),
        spec("d3", capability="search", attempts_max=1),
        spec("h1", capability="search", options=Options(on_loss=LossPolicy.HOLD)),
        watch=False,
    )
    trio.run(200)
    for name, error in (("d1", "ValueError: 1"), ("d2", "ValueError: 2"), ("d3", "KeyError: 3")):
        task = trio.leader.node.ledger.tasks[TaskId(name)]
        trio.ends(task.node_id, name, task.token, error=error)
    holder = trio.leader.node.ledger.tasks[TaskId("h1")]
    trio.begins(holder.node_id, "h1", holder.token)
    trio.run(100)
    client.order(Action.RECOVER, holder.node_id)
    trio.run(100)
    assert states(trio) == {"d1": "dead", "d2": "dead", "d3": "dead", "h1": "paused"}
    return client


@pytest.mark.parametrize(
    ("selection", "meant"),
    [
        (Selection(), ["d1", "d2", "d3"]),
        (Selection(error="ValueError"), ["d1", "d2"]),
        (Selection(capability="search"), ["d3"]),
        (Selection(capability="search", error="ValueError"), []),
        (Selection(task_ids=ids("d2", "h1", "nothing")), ["d2", "h1"]),
        (Selection(states=(PAUSED,)), ["h1"]),
        (Selection(states=(PENDING, RUNNING)), []),
    ],
)
def test_dead_letters_are_put_back_by_what_they_died_of(selection: Selection, meant: list[str]) -> None:
    """S0-06, C31: what is held is not a dead letter. Somebody has to name it, or its state."""
    trio = settled(capabilities=("code", "search"))
    client = graves(trio)
    said = touched(trio, client, Action.RETRY_MANY, selection)
    assert (said.count, sorted(said.ids), said.dependents) == (len(meant), meant, [])
    left = {name: state for name, state in states(trio).items() if state in ("dead", "paused")}
    assert set(left) == {"d1", "d2", "d3", "h1"} - set(meant)
    redriven = [name for name in meant if any(item.event == "task_redriven" for item in client.task(name).history)]
    assert redriven == meant


@pytest.mark.parametrize(
    ("selection", "meant"),
    [
        (Selection(), ["d1", "d2", "d3"]),
        (Selection(error="KeyError"), ["d3"]),
        (Selection(task_ids=ids("d2", "h1")), ["d2"]),
        (Selection(states=(PAUSED,)), []),
    ],
)
def test_dead_letters_are_given_up_by_what_they_died_of(selection: Selection, meant: list[str]) -> None:
    trio = settled(capabilities=("code", "search"))
    client = graves(trio)
    said = touched(trio, client, Action.DROP_MANY, selection, reason="known")
    assert (said.count, sorted(said.ids)) == (len(meant), meant)
    assert set(states(trio)) == {"d1", "d2", "d3", "h1"} - set(meant)
    assert trio.leader.node.ledger.counts[FAILED] == len(meant)
    assert [client.task(name).history[-1].detail for name in meant] == ["known"] * len(meant)


# --- very many ---


def crowd(trio: Trio, count: int = 5_000) -> None:
    client = trio.client(ANA)
    for first in range(0, count, 500):
        client.submit(
            *(spec(f"n{number:04}", capability="nobody") for number in range(first, first + 500)), watch=False
        )
        trio.run(20)
    assert trio.leader.node.ledger.counts[PENDING] == count


def test_five_thousand_take_several_turns_and_are_answered_once() -> None:
    """2,000 are looked at in a turn, and no more than 2,000 commands wait; a submit between them is not held up."""
    trio = settled()
    crowd(trio)
    client, other = trio.client(ANA), trio.client(ANA)
    asked = order(client, Action.CANCEL_MANY, Selection(capability="nobody"))
    assert [len(sweep.tasks) for sweep in trio[ANA].node.sweeps.waiting] == [3_000]
    waiting_most = 0
    for _ in range(500):
        trio.run(1)
        waiting_most = max(waiting_most, trio[ANA].node.leading.dispatcher.gathered)
        if trio[ANA].node.ledger.counts[CANCELLED] and not other.requests:
            other.ask(Question.STATUS)
            other.submit(spec("t1"))
    assert trio[ANA].runs == [("t1", trio[ANA].node.holding.attempts.held()[0][1])]
    assert 0 < waiting_most <= many.AT_ONCE_MAX
    said = client.document(asked, Touched)
    assert (said.count, len(said.ids), said.dependents) == (5_000, 1_000, [])
    assert client.answers(asked) == [(Code.OK, "5000 tasks")]
    assert trio.leader.node.ledger.counts[CANCELLED] == 5_000


def test_the_leader_dies_in_the_middle_and_the_next_does_the_rest() -> None:
    """S0-03: each that was cancelled stays so, and is cancelled once. ana's client hears nothing, and asks ben."""
    trio = settled()
    crowd(trio)
    client = trio.client(ANA)
    asked = order(client, Action.CANCEL_MANY, Selection(capability="nobody"))
    while not 0 < trio[BEN].node.ledger.counts[CANCELLED] < 4_000:
        trio.run(1)
    trio.kill(ANA)
    trio.run(3_000)
    assert client.answers(asked) == []
    done = trio.leader.node.ledger.counts[CANCELLED]
    assert 0 < done < 5_000
    other = trio.client(EVA)
    asked = order(other, Action.CANCEL_MANY, Selection(capability="nobody"))
    trio.run(500)
    assert other.document(asked, Touched).count == 5_000 - done
    assert other.answers(asked) == [(Code.OK, f"{5_000 - done} tasks")]
    page = trio.leader.node.ledger
    assert (page.counts[CANCELLED], page.counts[PENDING]) == (5_000, 0)


def test_office_is_lost_while_they_are_still_looked_for() -> None:
    """Nothing is done, nothing is said: not even how many there would have been, since that is not for ana to say."""
    trio = settled()
    crowd(trio, 4_500)
    client = trio.client(ANA)
    selections = (
        Selection(capability="nobody"),
        Selection(capability="nobody", is_dry=True),
        Selection(capability="code"),
    )
    for number, selection in enumerate(selections):
        client.say(Order(number, Action.CANCEL_MANY, "", "", encode(selection)), ends_turn=False)
    trio.tell(ANA, BEN, Vote(Term(9), LogIndex(99), Term(9), transfer=True))
    assert not trio[ANA].node.leading.dispatcher.in_office
    assert len(trio[ANA].node.sweeps.waiting) == 3
    trio.run(3_000)
    assert not trio[ANA].node.sweeps.waiting
    assert [client.answers(number) for number in range(3)] == [[], [], []]
    assert trio.leader.node.ledger.counts[CANCELLED] == 0


def test_the_same_order_of_two_people_is_answered_to_both() -> None:
    """They say it at once; each task is cancelled once, and each of them is told of all."""
    trio, one = motley()
    other = trio.client(EVA)
    asked = [(client, order(client, Action.CANCEL_MANY, Selection(states=(PENDING,)))) for client in (one, other)]
    trio.run(50)
    assert [sorted(client.document(number, Touched).ids) for client, number in asked] == [["n1", "w1", "w2"]] * 2
    assert [client.answers(number) for client, number in asked] == [[(Code.OK, "3 tasks")]] * 2
    assert trio.leader.node.ledger.counts[CANCELLED] == 3


def test_an_order_said_again_before_it_is_answered_is_answered_once() -> None:
    """A client that hears nothing for a second says it again, under the same number."""
    trio, _ = motley()
    client = trio.client(ANA)
    trio[BEN].is_disk_stuck = trio[EVA].is_disk_stuck = True
    said = Order(7, Action.CANCEL_MANY, "", "", encode(Selection(states=(PENDING,))))
    for _ in range(3):
        client.say(said)
        trio.run(20)
    trio.sync(BEN)
    trio.run(50)
    assert client.answers(7) == [(Code.OK, "3 tasks")]


def test_it_may_be_said_again_while_its_tasks_are_looked_for() -> None:
    trio = settled()
    crowd(trio, 2_500)
    client = trio.client(ANA)
    for _ in range(2):
        client.say(Order(7, Action.CANCEL_MANY, "", "", encode(Selection(capability="nobody"))), ends_turn=False)
    assert len(trio[ANA].node.sweeps.waiting) == 1
    trio.run(200)
    assert client.answers(7) == [(Code.OK, "2500 tasks")]


def test_two_orders_that_have_tasks_in_common_are_both_answered() -> None:
    """w1 and n1 wait; w1 asks for code. The second order waits for what the first has proposed."""
    trio, _ = motley()
    client = trio.client(ANA)
    first = order(client, Action.CANCEL_MANY, Selection(states=(PENDING,)))
    second = order(client, Action.CANCEL_MANY, Selection(task_ids=ids("w1", "b1")))
    trio.run(50)
    assert client.document(first, Touched).count == 3
    assert client.document(second, Touched).count == 2


# --- bounds and bad input ---


def test_no_more_such_orders_are_under_way_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "DOING_MAX", 1)
    trio, _ = motley()
    client = trio.client(ANA)
    first = order(client, Action.CANCEL_MANY, Selection(task_ids=ids("w1")))
    second = order(client, Action.CANCEL_MANY, Selection(task_ids=ids("w2")))
    assert client.answers(second) == [(Code.BACKPRESSURE, "too many orders wait; try again")]
    trio.run(50)
    assert client.answers(first) == [(Code.OK, "1 tasks")]
    assert states(trio)["w2"] == "pending"


def test_no_more_sweeps_wait_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "WAITING_MAX", 1)
    monkeypatch.setattr(sweeps, "SLICE", 3)
    trio, _ = motley()
    client = trio.client(ANA)
    first = client.order(Action.CLEAR, "9")
    second = client.order(Action.CLEAR, "9")
    assert client.answers(second) == [(Code.BACKPRESSURE, "too many sweeps wait; try again")]
    trio.run(50)
    assert client.answers(first) == [(Code.OK, "2 tasks")]


def test_what_is_found_last_is_proposed_in_the_same_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No beat and no other message has to come along for the last slice's tasks to be written down."""
    monkeypatch.setattr(sweeps, "SLICE", 3)
    trio, _ = motley()
    client = trio.client(ANA)
    trio.lose(AppendReply)
    last = trio[ANA].node.raft.last_index
    client.order(Action.CLEAR, "9")
    while trio[ANA].node.sweeps.waiting:
        trio.run(1)
    assert trio[ANA].node.leading.dispatcher.gathered == 0
    assert trio[ANA].node.raft.last_index == last + 1


@pytest.mark.parametrize("action", [Action.CANCEL_MANY, Action.RETRY_MANY, Action.DROP_MANY])
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "the order's value is not what it should be: Input data was truncated"),
        (b"\x05", "the order's value is not what it should be: Expected `array`, got `int`"),
        (
            encode(Selection(task_ids=ids(*(f"t{number}" for number in range(10_001))))),
            "10000 tasks may be named at most, not 10001",
        ),
        (encode(Selection(limit=0)), NO_SELECTION),
        (encode(Selection(dependents=2)), NO_SELECTION),
        (encode(Selection(dependents=-1)), NO_SELECTION),
        (encode(Selection(states=(0,) * 11)), NO_SELECTION),
        (encode(Selection(states=(10,))), NO_SELECTION),
    ],
)
def test_what_is_no_selection_is_refused_with_one_sentence(action: Action, value: bytes, why: str) -> None:
    trio, client = motley()
    asked = client.order(action, value=value)
    trio.run(20)
    assert client.answers(asked) == [(Code.INVALID, why)]
    assert len(states(trio)) == 8
