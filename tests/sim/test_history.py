"""What clients are told is recorded and judged: in runs made by hand, and in runs of a mesh that answers wrongly."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mesh.documents import TaskLine, TaskPage
from mesh.ids import LogIndex, NodeId, TaskId
from mesh.ledger.commands import AdmitNode, Batch, Command, GrantLease, SubmitTask
from mesh.ledger.task import COMPLETED, DEAD, DISPATCHED, PENDING, RUNNING, STATE_NAMES
from mesh.messages import (
    Accepted,
    Action,
    Answer,
    Ask,
    ClientRequest,
    Code,
    Order,
    Question,
    SubmitTasks,
    TaskEnd,
    TaskRefusal,
    TasksEnded,
    TaskSpec,
    TasksRefused,
)
from mesh.node import requests
from mesh.node.clients import ClientDesk
from mesh.node.orders import Orders
from mesh.raft import reads
from mesh.sim import bystanders, clients
from mesh.sim.coverage import Coverage
from mesh.sim.history import COUNTS, READS, TURNS, History
from mesh.sim.linearizable import Outcome
from mesh.sim.model import Model
from mesh.sim.plan import Plan, calm, draw
from mesh.sim.queue_checks import Grant, Loss, Reading, Stay, out_of_turn, set_full, total_queue
from mesh.sim.violation import Violation
from mesh.sim.world import run_seed
from mesh.wire.codec import decode_request, encode

T1, T2, T3, T4 = (TaskId(f"t{number}") for number in range(1, 5))
ANA, BEN = 1, 2


def spec(task_id: TaskId, payload: bytes = b"\x01", priority: int = 5) -> TaskSpec:
    return TaskSpec(task_id, "code", payload, priority)


def submit(*task_ids: TaskId) -> SubmitTasks:
    return SubmitTasks(True, [spec(task_id) for task_id in task_ids])


def document(state: int, token: int, result: bytes = b"\xc0") -> bytes:
    """What of a task's document is looked at, and something else beside it."""
    fields = {"state": STATE_NAMES[state], "capability": "code", "token": token, "attempts": 1, "id": "t1"}
    return encode({**fields, "result": msgspec.Raw(result), "payload": msgspec.Raw(b"\x01"), "history": [1, 2]})


def recorded(*happened: tuple[int, Any], doubles: bool = False) -> History:
    """A history in which these were said and heard, in this order, over these links."""
    history = History(Coverage(), doubles=doubles)
    for link, what in happened:
        if isinstance(what, ClientRequest):
            history.invoked(link, what)
        else:
            history.heard(link, what)
    return history


# --- recording --------------------------------------------------------------------------------------------------------


def test_a_submit_is_closed_by_what_is_heard_over_its_own_link() -> None:
    """Ana and ben submit t1. Ana hears; ben never does."""
    history = recorded((ANA, submit(T1)), (BEN, submit(T1)), (ANA, Accepted(LogIndex(4), [T1])))
    assert [(each.who, each.invoked, each.returned, each.outcome) for each in history.tasks[T1]] == [
        ("link 1", 1, 3, Outcome.DONE),
        ("link 2", 2, None, Outcome.OPEN),
    ]
    assert history.accepted == {T1: 3}
    history.judge([T1])


def test_a_refusal_is_believed_when_it_is_clear_what_is_refused() -> None:
    refusal = TasksRefused([TaskRefusal(T1, Code.UNAVAILABLE, "nobody leads")])
    once = recorded((ANA, submit(T1)), (ANA, refusal))
    twice = recorded((ANA, submit(T1)), (ANA, submit(T1)), (ANA, refusal))
    assert [each.outcome for each in once.tasks[T1]] == [Outcome.NOTHING]
    assert [each.outcome for each in twice.tasks[T1]] == [Outcome.OPEN, Outcome.OPEN]


def test_a_task_that_was_refused_for_sure_must_not_show_up() -> None:
    """Unless the wires double: then a copy may have arrived where the first was refused."""
    story = (
        (ANA, submit(T1)),
        (ANA, TasksRefused([TaskRefusal(T1, Code.UNAVAILABLE, "nobody leads")])),
        (BEN, Ask(7, Question.TASK, False, T1)),
        (BEN, Answer(7, Code.OK, "", document(PENDING, 0))),
    )
    with pytest.raises(Violation, match=r"linearizable.*impossible"):
        recorded(*story).judge([T1])
    recorded(*story, doubles=True).judge([T1])


def test_a_read_that_goes_back_is_found() -> None:
    story = (
        (ANA, submit(T1)),
        (ANA, Accepted(LogIndex(4), [T1])),
        (ANA, Ask(7, Question.TASK, False, T1)),
        (ANA, Answer(7, Code.OK, "", document(RUNNING, 9))),
        (BEN, Ask(8, Question.TASK, False, T1)),
    )
    recorded(*story, (BEN, Answer(8, Code.OK, "", document(COMPLETED, 9, b"\x05")))).judge([T1])
    with pytest.raises(Violation, match="linearizable") as broken:
        recorded(*story, (BEN, Answer(8, Code.OK, "", document(DISPATCHED, 9)))).judge([T1])
    assert (broken.value.invariant, broken.value.task_id) == (READS, T1)


def test_a_stale_read_and_an_answer_to_nobody_say_nothing() -> None:
    history = recorded(
        (ANA, Ask(7, Question.TASK, True, T1)),
        (ANA, Answer(7, Code.OK, "", document(RUNNING, 9))),
        (ANA, Answer(8, Code.NOT_FOUND, "", b"")),
    )
    assert history.tasks == {}


def test_an_order_is_closed_by_its_number() -> None:
    """Cancelled for ana, and done all the same."""
    story = (
        (ANA, submit(T1)),
        (ANA, Accepted(LogIndex(4), [T1])),
        (ANA, Order(7, Action.CANCEL, T1, "changed my mind")),
        (ANA, Answer(7, Code.OK, "done", b"")),
    )
    end = TaskEnd(T1, COMPLETED, b"\x05", "", "", NodeId("n1"), 1)
    recorded(*story).judge([T1])
    with pytest.raises(Violation, match="linearizable"):
        recorded(*story, (ANA, TasksEnded([end]))).judge([T1])


def test_a_death_may_be_told_late_and_a_result_may_not_change() -> None:
    dead = TaskEnd(T1, DEAD, b"", "boom", "", NodeId("n1"), 1)
    done, other = (TaskEnd(T1, COMPLETED, result, "", "", NodeId("n1"), 1) for result in (b"\x05", b"\x06"))
    story = (
        (ANA, submit(T1)),
        (ANA, Accepted(LogIndex(4), [T1])),
        (ANA, Order(7, Action.RETRY, T1)),
        (ANA, Answer(7, Code.OK, "done", b"")),
        (ANA, TasksEnded([done])),
        (ANA, TasksEnded([dead])),
    )
    recorded(*story).judge([T1])
    with pytest.raises(Violation, match="linearizable"):
        recorded(*story, (BEN, TasksEnded([other]))).judge([T1])


def test_what_was_accepted_before_a_list_was_asked_for_is_in_it() -> None:
    """t2 was accepted; a page that ends with t3 lacks it. One that ends with t1 need not have it."""
    story = ((ANA, submit(T2)), (ANA, Accepted(LogIndex(4), [T2])), (ANA, Ask(7, Question.TASKS)))

    def page(*task_ids: TaskId, following: str | None) -> Answer:
        lines = [TaskLine(task_id, "code", 5, "pending", 0, None) for task_id in task_ids]
        return Answer(7, Code.OK, "", encode(TaskPage(lines, following)))

    recorded(*story, (ANA, page(T1, following=T1)))
    recorded(*story, (ANA, page(T1, T2, following=None)))
    with pytest.raises(Violation, match="missing in a list"):
        recorded(*story, (ANA, page(T1, T3, following=T3)))


def test_what_the_log_says_closes_what_nobody_heard() -> None:
    """Ana is refused, and nobody ever asks about t1. But the log has it."""
    history = recorded((ANA, submit(T1)), (ANA, TasksRefused([TaskRefusal(T1, Code.UNAVAILABLE, "nobody leads")])))
    model = Model(Coverage())
    model.apply(1, Batch(0, [SubmitTask(spec(T1))]))
    history.committed(model)
    with pytest.raises(Violation, match="the log 3-3 read -> pending under 0"):
        history.judge([T1])


def test_who_came_first_is_granted_first() -> None:
    """t1 and t2 wait; t2 is granted before t1. Were t2 urgent, that would be right."""
    for priority, is_broken in ((5, True), (1, False)):
        history = recorded((ANA, SubmitTasks(True, [spec(T1), spec(T2, priority=priority)])))
        model = Model(Coverage())
        entries: list[list[Command]] = [
            [AdmitNode(NodeId("n1"), 1)],
            [SubmitTask(spec(T1)), SubmitTask(spec(T2, priority=priority))],
            [GrantLease(T2, NodeId("n1"))],
            [GrantLease(T1, NodeId("n1"))],
        ]
        for index, commands in enumerate(entries, 1):
            model.apply(index, Batch(0, commands))
            history.committed(model)
        if is_broken:
            with pytest.raises(Violation, match=TURNS):
                history.judge([T1, T2])
        else:
            history.judge([T1, T2])


def test_what_was_accepted_and_is_gone_is_lost() -> None:
    story = ((ANA, submit(T1, T2)), (ANA, Accepted(LogIndex(4), [T1, T2])))
    with pytest.raises(Violation, match=r"lost=.*t2.*the last ones") as broken:
        recorded(*story).judge([T1])
    assert (broken.value.invariant, broken.value.task_id) == (COUNTS, T2)


# --- counting ---------------------------------------------------------------------------------------------------------


def test_a_queue_is_counted() -> None:
    """t1 done, t2 done twice, t3 done though nobody was told of it, t9 from nowhere."""
    count = total_queue([T1, T2, T3], [T1, T2], [T1, T2, T3, TaskId("t9")], [T1, T2, T2, T3])
    assert (count.lost, count.loss, count.unexpected) == ((), Loss.NONE, ("t9",))
    assert (count.duplicated, count.recovered) == ((T2,), (T3,))


@pytest.mark.parametrize(
    ("there", "loss"),
    [
        ("1234", Loss.NONE),
        ("34", Loss.PREFIX),
        ("134", Loss.MIDDLE),
        ("13", Loss.MIDDLE),
        ("12", Loss.POSTFIX),
        ("", Loss.ALL),
    ],
)
def test_losses_are_told_apart_by_where_they_lie(there: str, loss: Loss) -> None:
    accepted = [T1, T2, T3, T4]
    count = total_queue(accepted, accepted, [TaskId(f"t{number}") for number in there], [])
    assert (count.loss, len(count.lost)) == (loss, 4 - len(there))


def test_members_of_a_set_are_told_apart_by_how_they_stay() -> None:
    """t1 is in every read, t2 was missing once, t3 from some read on, t4 came after the last read."""
    reads_of_all = [Reading(10, frozenset({T1, T3})), Reading(20, frozenset({T1, T2}))]
    assert set_full({T1: 1, T2: 2, T3: 3, T4: 30}, reads_of_all) == {
        T1: Stay.STABLE,
        T2: Stay.STALE,
        T3: Stay.LOST,
        T4: Stay.NEVER_READ,
    }


def test_only_the_first_grant_of_an_undisturbed_task_counts() -> None:
    here = ("code", 5)
    places = {T1: 0, T2: 1}
    in_turn = [Grant(T1, here), Grant(T2, here), Grant(T1, here)]
    assert out_of_turn(places, in_turn) is None
    assert out_of_turn(places, [Grant(T3, here), *in_turn]) is None
    assert out_of_turn(places, in_turn[1:]) == (T1, T2)


# --- runs of a mesh that answers wrongly ------------------------------------------------------------------------------


def reads_by_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any node answers for a task that lives in its table, whoever leads."""
    honest = ClientDesk.message

    def message(desk: Any, event: Any) -> None:
        request = decode_request(event.data)
        if (
            isinstance(request, Ask)
            and request.question == Question.TASK
            and request.task_id in desk._node.ledger.tasks
        ):
            desk._answer_ask((requests.HERE, event.client), request)
        else:
            honest(desk, event)

    monkeypatch.setattr(ClientDesk, "message", message)


def reads_without_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader answers without asking whether it still leads."""

    def start_waiting(s: Any) -> None:
        s.reads_confirmed.extend((read_id, s.commit_index) for read_id in s.reads_waiting)
        s.reads_waiting = []

    monkeypatch.setattr(reads, "start_waiting", start_waiting)


def reads_of_what_is_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that lives is shown as it was when it was last asked for, for two seconds."""
    honest = ClientDesk._task_document
    shown: dict[tuple[int, str], tuple[int, Any]] = {}

    def task_document(desk: Any, client: Any, ask: Ask, task: Any) -> None:
        key = (id(desk), ask.task_id)
        kept_ms, kept = shown.get(key, (0, None))
        if not task.finished and task.state != DEAD:
            if kept is None or desk._node.now_ms - kept_ms > 2_000:
                shown[key] = (desk._node.now_ms, msgspec.structs.replace(task, history=list(task.history)))
            task = shown[key][1]
        honest(desk, client, ask, task)

    monkeypatch.setattr(ClientDesk, "_task_document", task_document)


def orders_answered_when_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel is said to be done before it is in the log."""
    honest = Orders.order

    def order(orders: Any, client: Any, asked: Order) -> None:
        if asked.action == Action.CANCEL:
            orders._answer(client, asked, Code.OK, "done")
        honest(orders, client, asked)

    monkeypatch.setattr(Orders, "order", order)


def refused_though_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits when a leader leaves office is told that nothing was done."""
    honest = ClientDesk.leave_office

    def leave_office(desk: Any) -> None:
        for submitting in desk.waiting.accepting.values():
            for client in submitting.clients:
                desk.tell(client, requests.unavailable([submitting.spec], "no leader is known"))
        honest(desk)

    monkeypatch.setattr(ClientDesk, "leave_office", leave_office)


def whole(seed: int) -> Plan:
    """Nobody's wires double, so what was refused stays refused."""
    plan = draw(seed)
    kept = {fault: strength for fault, strength in plan.faults.items() if fault not in ("duplicate", "replay")}
    return msgspec.structs.replace(plan, faults={**kept, "crash": 800, "partition": 1_500})


def asleep(seed: int) -> Plan:
    return calm(seed, 3, faults={"sleeping_leader": 3_000}, safety_ms=40_000, tasks_max=200)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("breaks", "plan"),
    [
        (reads_of_what_is_on_disk, draw),
        (orders_answered_when_proposed, whole),
        (refused_though_proposed, whole),
    ],
)
def test_what_only_the_history_shows(
    breaks: Callable[[pytest.MonkeyPatch], None], plan: Callable[[int], Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other invariant objects to these."""
    breaks(monkeypatch)
    verdict = next(verdict for verdict in (run_seed(seed, plan(seed)) for seed in range(30)) if verdict.invariant)
    assert (verdict.invariant, verdict.detail.startswith("impossible after")) == (READS, True)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("breaks", "plan"), [(reads_by_anybody, draw), (reads_without_a_round, asleep)])
def test_what_the_history_would_show_if_no_client_had_noticed(
    breaks: Callable[[pytest.MonkeyPatch], None], plan: Callable[[int], Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients compare what they read with what they were told. Here they do not."""
    breaks(monkeypatch)
    for readers in (clients, bystanders):
        monkeypatch.setattr(readers, "read_is_fresh", lambda *told: None)
    verdict = next(verdict for verdict in (run_seed(seed, plan(seed)) for seed in range(30)) if verdict.invariant)
    assert (verdict.invariant, verdict.detail.startswith("impossible after")) == (READS, True)
