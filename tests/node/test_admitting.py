"""What there is room for, and when an id is free again (research E.6, E.11, E.14; S0-12)."""

from typing import Any

import pytest

from mesh.config import DispatchConfig
from mesh.effects import LoadRows
from mesh.ids import TaskId
from mesh.messages import Accepted, Action, Append, Code, Order, SubmitTasks, TaskRefusal, TasksEnded, TasksRefused
from mesh.node import admitting
from mesh.node.requests import conflict
from mesh.options import Concurrency, Options, WhenFull
from mesh.wire.codec import encode
from tests.node.client import Client, spec
from tests.node.trio import ANA, BEN, EVA, Trio, settled


def accepted(client: Client) -> list[str]:
    return [task_id for reply in client.told(Accepted) for task_id in reply.task_ids]


def refused(client: Client) -> list[tuple[str, int, str, int]]:
    """Id, code, sentence, and when to ask again."""
    return [
        (each.task_id, each.code, each.message, each.retry_after_ms)
        for reply in client.told(TasksRefused)
        for each in reply.refusals
    ]


def backpressure(name: str, why: str) -> tuple[str, int, str, int]:
    return name, Code.BACKPRESSURE, f"{why}; try again later", 500


def setting(trio: Trio, client: Client, name: str, value: int) -> None:
    asked = client.order(Action.SET, name, value=encode(value))
    trio.run(20)
    assert client.answers(asked) == [(Code.OK, "done")]


# --- room ---


def test_the_last_of_the_room_is_kept_for_what_is_urgent() -> None:
    """E.14: of 20 places one is kept, for priorities 0 and 1 and below. Then the mesh is full for everybody."""
    trio = settled(dispatch=DispatchConfig(queued_max=20))
    client = trio.client(BEN)
    client.submit(*(spec(f"t{number}", capability="nobody") for number in range(18)), watch=False)
    trio.run(20)
    client.submit(spec("five"), spec("two", priority=2), watch=False)
    client.submit(spec("one", priority=1), spec("nought", priority=0), watch=False)
    trio.run(20)
    kept = "the mesh holds 19 tasks; what room is left is kept for priorities 0 and 1"
    full = "the mesh holds 20 tasks, its limit"
    assert refused(client) == [backpressure("two", kept), backpressure("nought", full)]
    assert accepted(client)[18:] == ["five", "one"]
    client.order(Action.CANCEL, "t0")
    trio.run(20)
    client.submit(spec("three", priority=3), spec("below", priority=-7), watch=False)
    trio.run(20)
    assert accepted(client)[20:] == ["below"]


def test_how_much_is_kept_is_a_setting() -> None:
    trio = settled(dispatch=DispatchConfig(queued_max=4))
    client = trio.client(BEN)
    setting(trio, client, "reserve_permille", 500)
    client.submit(*(spec(f"t{number}") for number in range(3)), watch=False)
    trio.run(20)
    kept = "the mesh holds 2 tasks; what room is left is kept for priorities 0 and 1"
    assert refused(client) == [backpressure("t2", kept)]
    setting(trio, client, "reserve_permille", 0)
    client.submit(*(spec(f"t{number}") for number in range(5)), watch=False)
    trio.run(20)
    assert refused(client)[1:] == [backpressure("t4", "the mesh holds 4 tasks, its limit")]


def test_what_is_on_its_way_takes_room() -> None:
    """Nothing is committed yet of what three turns have brought, and the fourth finds the mesh full."""
    trio = settled(dispatch=DispatchConfig(queued_max=3))
    trio.lose(Append)
    client = trio.client(ANA)
    for number in range(4):
        client.submit(spec(f"t{number}", priority=0), watch=False)
    assert refused(client) == [backpressure("t3", "the mesh holds 3 tasks, its limit")]
    trio.heal()
    trio.run(200)
    assert accepted(client) == ["t0", "t1", "t2"]


def test_what_is_ordered_takes_none() -> None:
    """Twenty cancellations are gathered in the turn the task comes in."""
    trio = settled(dispatch=DispatchConfig(queued_max=3))
    client = trio.client(ANA)
    for number in range(20):
        client.say(Order(number, Action.CANCEL, f"x{number}"), ends_turn=False)
    assert trio[ANA].node.leading.dispatcher.gathered == 20
    client.submit(spec("t1"), watch=False)
    trio.run(20)
    assert (accepted(client), refused(client)) == (["t1"], [])


def test_payloads_are_kept_in_memory_and_have_a_bound_together() -> None:
    """E.14: 1,000 bytes. The second does not fit, a smaller one does; what ends gives its bytes back."""
    trio = settled(dispatch=DispatchConfig(queued_bytes_max=1_000))
    client = trio.client(BEN)
    client.submit(spec("a", payload=bytes(700)), spec("b", payload=bytes(301)), spec("c", payload=bytes(300)))
    trio.run(20)
    assert refused(client) == [backpressure("b", "the mesh holds payloads of 700 bytes, its limit is 1000")]
    assert accepted(client) == ["a", "c"]
    client.order(Action.CANCEL, "a")
    trio.run(20)
    client.submit(spec("b", payload=bytes(301)))
    trio.run(20)
    assert accepted(client) == ["a", "c", "b"]


def test_with_as_many_dead_letters_as_there_may_be_nothing_is_taken_until_somebody_looks() -> None:
    """E.21: dead letters are never dropped silently. Urgent tasks are refused as well."""
    trio = settled()
    client = trio.client(BEN)
    setting(trio, client, "dead_letters_max", 1)
    client.submit(spec("dead", attempts_max=1), watch=False)
    trio.run(20)
    [(host, token)] = [(host.name, token) for host in trio.hosts.values() for _, token in host.runs]
    trio.ends(host, "dead", token, error="no")
    trio.run(20)
    client.submit(spec("t1"), spec("t2", priority=0), watch=False)
    trio.run(20)
    why = "there are 1 dead letters, and no room for more: retry or drop some"
    assert refused(client) == [backpressure("t1", why), backpressure("t2", why)]
    client.order(Action.DROP, "dead")
    trio.run(20)
    client.submit(spec("t1"), watch=False)
    trio.run(20)
    assert accepted(client) == ["dead", "t1"]


# --- concurrency keys ---


def keyed(when_full: WhenFull, limit: int = 1) -> Options:
    return Options(concurrency=Concurrency("k", limit, when_full))


def test_of_two_that_race_under_a_full_key_one_is_refused() -> None:
    """E.6, reject: both come in one message, and so in one entry; who comes first has it. Later ones are refused too,
    until it has ended.
    """
    trio = settled()
    client, other = trio.client(BEN), trio.client(ANA)
    client.submit(spec("t1", options=keyed(WhenFull.REJECT)), spec("t2", options=keyed(WhenFull.REJECT)))
    trio.run(20)
    other.submit(spec("t3", options=keyed(WhenFull.REJECT)))
    trio.run(20)
    full = "its concurrency key is full"
    assert (accepted(client), refused(client)) == (["t1"], [backpressure("t2", full)])
    assert (accepted(other), refused(other)) == ([], [backpressure("t3", full)])
    assert trio.leader.node.ledger.tasks.keys() == {"t1"}
    [(task, token)] = trio[ANA].runs
    trio.ends(ANA, task, token)
    trio.run(20)
    other.submit(spec("t3", options=keyed(WhenFull.REJECT)))
    trio.run(20)
    assert accepted(other) == ["t3"]
    assert [end.task_id for reply in client.told(TasksEnded) for end in reply.ends] == ["t1"]


def test_two_clients_whose_submit_is_turned_down_are_both_told() -> None:
    trio = settled()
    clients = [trio.client(ANA), trio.client(BEN)]
    clients[0].submit(spec("t1", options=keyed(WhenFull.REJECT)), watch=False)
    for client in clients:
        client.say(SubmitTasks(True, [spec("t2", options=keyed(WhenFull.REJECT))]), ends_turn=False)
    trio.run(20)
    assert [refused(client) for client in clients] == [[backpressure("t2", "its concurrency key is full")]] * 2
    waiting = trio[ANA].node.clients.waiting
    assert (waiting.accepting, waiting.watching) == ({}, {})


@pytest.mark.parametrize(
    ("when_full", "cancelled"),
    [(WhenFull.CANCEL_NEWEST, ["t2"]), (WhenFull.CANCEL_OLDEST, ["t1"]), (WhenFull.QUEUE, [])],
)
def test_the_other_ways_to_treat_a_full_key_accept_both(when_full: WhenFull, cancelled: list[str]) -> None:
    """E.6: whoever is cancelled was accepted first, and whoever waits for it is told."""
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("t1", options=keyed(when_full)), spec("t2", options=keyed(when_full)))
    trio.run(20)
    assert (accepted(client), refused(client)) == (["t1", "t2"], [])
    ended = [end.task_id for reply in client.told(TasksEnded) for end in reply.ends]
    assert ended == cancelled
    running = [task for host in trio.hosts.values() for task, _ in host.node.holding.attempts.held()]
    assert running == ["t2" if cancelled == ["t1"] else "t1"]


# --- windows ---


def windowed(name: str = "t1", window_ms: int = 10_000, **fields: Any) -> Any:
    return spec(name, options=Options(window_ms=window_ms), **fields)


def ends_one(trio: Trio, name: str) -> int:
    """The latest attempt of a task ends well; returns its token."""
    task = trio.leader.node.ledger.tasks[TaskId(name)]
    token = int(task.token)
    trio.ends(task.node_id, name, token)
    trio.run(20)
    return token


def once(wait_ms: int = 20) -> tuple[Trio, int]:
    """t1 has ended, as of which so much time has passed; and the token it ended under."""
    trio = settled()
    client = trio.client(ANA)
    client.submit(windowed(), watch=False)
    trio.run(20)
    token = ends_one(trio, "t1")
    trio.run(wait_ms)
    return trio, token


def is_on_disk_alone(trio: Trio) -> bool:
    return trio.leader.node.behind.find(TaskId("t1")) is None


@pytest.mark.parametrize("wait_ms", [20, 5_000])
def test_within_its_window_the_same_key_is_the_same_task(wait_ms: int) -> None:
    """E.11: its row is in memory, and after that on disk. The same result is told, and nothing runs again."""
    trio, token = once(wait_ms)
    assert is_on_disk_alone(trio) == (wait_ms == 5_000)
    client = trio.client(BEN)
    client.submit(windowed())
    trio.run(20)
    assert (accepted(client), refused(client)) == (["t1"], [])
    [ended] = client.told(TasksEnded)
    assert [(end.task_id, end.result) for end in ended.ends] == [("t1", encode("t1"))]
    assert [host.runs for host in trio.hosts.values()] == [[("t1", token)], [], []]


@pytest.mark.parametrize("wait_ms", [20, 5_000])
def test_within_its_window_another_payload_is_a_conflict(wait_ms: int) -> None:
    trio, _ = once(wait_ms)
    client = trio.client(BEN)
    client.submit(windowed(payload=b"\x02"))
    trio.run(20)
    assert client.told(TasksRefused) == [TasksRefused([conflict(TaskId("t1"))])]
    assert accepted(client) == []


@pytest.mark.parametrize("payload", [b"\x01", b"\x02"])
@pytest.mark.parametrize("window_ms", [5, 9_900])
def test_after_its_window_it_is_a_new_task(window_ms: int, payload: bytes) -> None:
    """E.11: with the old row still in memory, and with it on disk alone. The new one runs, its end is told, and it is
    the one that is shown from then on; the same payload or another, that counts no more.
    """
    trio, token = once(20 if window_ms == 5 else 10_000)
    assert is_on_disk_alone(trio) == (window_ms == 9_900)
    client = trio.client(BEN)
    client.submit(windowed(window_ms=window_ms, payload=payload))
    trio.run(20)
    assert (accepted(client), refused(client), client.told(TasksEnded)) == (["t1"], [], [])
    assert client.task("t1").state == "dispatched"
    again = ends_one(trio, "t1")
    assert again > token
    assert [len(reply.ends) for reply in client.told(TasksEnded)] == [1]
    trio.run(2_000)
    assert is_on_disk_alone(trio)
    shown = client.task("t1")
    assert (shown.state, shown.token, shown.payload) == ("completed", again, payload[0])
    client.submit(windowed(payload=payload))
    trio.run(20)
    assert accepted(client) == ["t1", "t1"]


def test_the_window_ends_to_the_millisecond() -> None:
    """It began with the end of the task, by the time in the log."""
    trio, _ = once()
    task = trio[ANA].node.behind.find(TaskId("t1"))
    assert task is not None
    over_ms = task.finished_at_ms + 10_000 - trio.epoch_ms
    trio.run(over_ms - 2 - trio.now_ms)
    client = trio.client(ANA)
    client.submit(windowed(), watch=False)
    trio.run(1)  # The store answers.
    assert accepted(client) == ["t1"]
    client.submit(windowed(), watch=False)
    trio.run(1)
    assert accepted(client) == ["t1"]
    trio.run(20)
    assert accepted(client) == ["t1", "t1"]
    assert trio[ANA].node.ledger.tasks[TaskId("t1")].submitted_at_ms == over_ms + trio.epoch_ms


@pytest.mark.parametrize(("wait_ms", "tasks"), [(0, 0), (10_000, 1)])
def test_the_window_outlasts_the_leader(wait_ms: int, tasks: int) -> None:
    """ana dies; whoever leads next knows from its own table when it ended."""
    trio, _ = once(2_000)
    trio.kill(ANA)
    trio.run(3_000 + wait_ms)
    client = trio.client(EVA)
    client.submit(windowed())
    trio.run(20)
    assert accepted(client) == ["t1"]
    assert len(trio.leader.node.ledger.tasks) == tasks


def test_what_ended_without_ever_being_granted_is_a_new_task_as_well() -> None:
    """t1 was cancelled while it waited: it has no token."""
    trio = settled()
    client = trio.client(BEN)
    client.submit(windowed(capability="nobody"), watch=False)
    trio.run(20)
    client.order(Action.CANCEL, "t1")
    trio.run(10_100)
    client.submit(windowed(capability="nobody"))
    trio.run(20)
    assert client.task("t1").state == "pending"
    trio.run(3_000)
    for host in trio.hosts.values():
        assert host.node.ledger.tasks.keys() == {"t1"}


def test_a_dead_letter_keeps_its_id_however_long() -> None:
    """It has not ended: somebody may yet put it back."""
    trio = settled()
    client = trio.client(ANA)
    client.submit(windowed(attempts_max=1), watch=False)
    trio.run(20)
    trio.ends(ANA, "t1", 4, error="no")
    trio.run(20_000)
    client.submit(windowed(attempts_max=1), watch=False)
    trio.run(20)
    assert accepted(client) == ["t1", "t1"]
    assert client.task("t1").state == "dead"


def test_without_a_window_the_id_stays_taken() -> None:
    """The window is that of the submit that asks."""
    trio, token = once(20_000)
    client = trio.client(BEN)
    client.submit(spec("t1"), watch=False)
    trio.run(20)
    assert accepted(client) == ["t1"]
    assert client.task("t1").token == token


def test_two_submit_the_same_anew_at_once() -> None:
    """After the window: one task comes of it, both are told that it is theirs, and of its end."""
    trio, _ = once(10_000)
    clients = [trio.client(BEN), trio.client(EVA)]
    for client in clients:
        client.submit(windowed())
    trio.run(20)
    ends_one(trio, "t1")
    for client in clients:
        assert (accepted(client), refused(client)) == (["t1"], [])
        assert [end.task_id for reply in client.told(TasksEnded) for end in reply.ends] == ["t1"]
    assert sum(len(host.runs) for host in trio.hosts.values()) == 2


def test_two_submit_different_things_anew_at_once() -> None:
    """Which of the two will have the id is not known yet; whoever is second is told to ask again, and not that his task
    was accepted.
    """
    trio, _ = once(10_000)
    client, other = trio.client(BEN), trio.client(EVA)
    client.submit(windowed(payload=b"\x02"))
    other.submit(windowed(payload=b"\x03"))
    trio.run(20)
    text = "another task with id 't1' is being accepted; try again to learn whether it was"
    assert (accepted(client), refused(client)) == (["t1"], [])
    assert (accepted(other), refused(other)) == ([], [("t1", Code.BACKPRESSURE, text, 500)])
    other.submit(windowed(payload=b"\x03"))
    trio.run(20)
    assert other.told(TasksRefused)[1:] == [TasksRefused([conflict(TaskId("t1"))])]


def test_whoever_submits_anew_needs_room_like_everybody() -> None:
    """The mesh is full. A submit that is on its way already is only told of."""
    trio = settled(dispatch=DispatchConfig(queued_max=2))
    client = trio.client(ANA)
    setting(trio, client, "reserve_permille", 0)
    client.submit(windowed(), watch=False)
    trio.run(20)
    ends_one(trio, "t1")
    trio.run(10_000)
    client.submit(spec("a"), watch=False)
    trio.run(20)
    trio.lose(Append)
    for _ in range(2):
        client.submit(windowed(), watch=False)
        trio.run(20)
    client.submit(windowed("t2"), watch=False)
    assert refused(client) == [backpressure("t2", "the mesh holds 2 tasks, its limit")]
    trio.heal()
    trio.run(200)
    client.order(Action.CANCEL, "t1")
    trio.run(20)
    client.submit(spec("b"), watch=False)
    trio.run(20_000)
    assert len(trio.leader.node.ledger.tasks) == 2
    client.submit(windowed(), watch=False)
    trio.run(20)
    assert refused(client)[1:] == [backpressure("t1", "the mesh holds 2 tasks, its limit")]


def test_a_renewal_is_not_lost_when_the_entry_is_refused_for_now() -> None:
    """ana hands her office over and takes no entries meanwhile; ben does not answer, and she goes on."""
    trio, token = once(10_000)
    trio.cut(BEN)
    client = trio.client(ANA)
    client.order(Action.TRANSFER, "ben")
    client.submit(windowed(), watch=False)
    trio.run(600)
    assert accepted(client) == ["t1"]
    assert trio[ANA].node.ledger.tasks[TaskId("t1")].token > token


def test_office_is_lost_while_the_row_is_read() -> None:
    """ana's store is slow. What comes of it is nothing any more, and her client hears nothing and asks elsewhere."""
    trio, _ = once(10_000)
    trio[ANA].are_reads_stuck = True
    client = trio.client(ANA)
    client.submit(windowed(), watch=False)
    [load] = trio[ANA].effects(LoadRows)[-1:]
    row = trio[ANA].disk.load_rows(load)
    trio.cut(ANA)
    trio.run(1_000)
    trio.feed(ANA, row)
    trio.run(20)
    assert (accepted(client), refused(client)) == ([], [])
    assert trio[ANA].node.ledger.tasks == {}


def test_a_row_that_the_store_has_lost() -> None:
    """It cannot be told when that was: the id stays taken."""
    trio, _ = once(10_000)
    del trio[ANA].disk.table.rows[TaskId("t1")]
    client = trio.client(ANA)
    client.submit(windowed(), windowed(payload=b"\x02"), watch=False)
    trio.run(20)
    assert accepted(client) == ["t1"]
    assert client.told(TasksRefused) == [TasksRefused([conflict(TaskId("t1"))])]


def test_no_more_rows_are_looked_for_at_once_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admitting, "LOOKS_MAX", 1)
    trio, _ = once(10_000)
    client = trio.client(ANA)
    for _ in range(2):
        client.submit(windowed(), watch=False)
    assert refused(client) == [backpressure("t1", "too many reads wait for the disk")]
    trio.run(20)
    assert accepted(client) == ["t1"]


def test_too_many_requests_wait() -> None:
    trio = settled(dispatch=DispatchConfig(waiting_max=1))
    trio.lose(Append)
    client = trio.client(ANA)
    client.submit(spec("t1"), spec("t2"), watch=False)
    assert client.told(TasksRefused) == [
        TasksRefused([TaskRefusal(TaskId("t2"), Code.BACKPRESSURE, "too many requests wait; try again later", 500)])
    ]
