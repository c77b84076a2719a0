"""Orders: every action, through any node, answered once it is committed, with a code that says what came of it."""

import pytest

from mesh.documents import EventPage, Status
from mesh.durable import EntryKind
from mesh.events import AgentsReady
from mesh.ids import LogIndex, NodeId, TaskId, Term
from mesh.ledger.commands import RedriveTask
from mesh.ledger.task import CANCELLED, DEAD, DISPATCHED, FAILED, PENDING
from mesh.messages import (
    Accepted,
    Action,
    Answer,
    Append,
    CheckpointReport,
    Code,
    Order,
    Question,
    Stops,
    SubmitTasks,
    TasksEnded,
)
from mesh.node import orders
from mesh.node.requests import member
from mesh.wire.codec import decode_batch
from tests.node.client import Client, spec
from tests.node.trio import ALL, ANA, BEN, EVA, Trio, lease, settled

DONE = [(Code.OK, "done")]
ALREADY = [(Code.OK, "already so")]
UNKNOWN = [(Code.NOT_FOUND, "there is no such task or node")]
REFUSED = [(Code.REFUSED, "not in its present state; look at it with `mesh task show`")]


def one_runs_one_is_dead() -> tuple[Trio, Client]:
    """t1 runs on ana under token 4; `dead` is a dead letter; `waits` waits for a capability nobody has."""
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("t1"), spec("dead", attempts_max=1), spec("waits", capability="nobody"))
    trio.run(20)
    trio.ends(BEN, "dead", 4, error="ValueError: no")
    trio.run(20)
    client.heard.clear()
    return trio, client


def ordered(trio: Trio, client: Client, action: int, target: str = "", value: bytes = b"") -> list[tuple[int, str]]:
    asked = client.order(action, target, value=value)
    trio.run(20)
    return client.answers(asked)


def states(trio: Trio) -> dict[str, int]:
    return {task_id: task.state for task_id, task in trio.leader.node.ledger.tasks.items()}


def test_an_order_is_answered_when_a_quorum_has_it() -> None:
    """Nothing is said while the followers' disks hang; then `done`."""
    trio, client = one_runs_one_is_dead()
    trio[BEN].is_disk_stuck = trio[EVA].is_disk_stuck = True
    asked = client.order(Action.CANCEL, "waits")
    trio.run(200)
    assert client.answers(asked) == []
    trio.sync(EVA)
    trio.run(5)
    assert client.answers(asked) == DONE


def test_cancel_in_any_state() -> None:
    """What waits ends; what runs is told to stop; a dead letter ends; what has ended has ended; what is not, is not."""
    trio, client = one_runs_one_is_dead()
    assert [ordered(trio, client, Action.CANCEL, name) for name in ("waits", "t1", "dead")] == [DONE] * 3
    assert trio[ANA].stopped == [("t1", 4)]
    assert [ordered(trio, client, Action.CANCEL, name) for name in ("waits", "nothing")] == [ALREADY, UNKNOWN]
    ends = [(end.task_id, end.state) for reply in client.told(TasksEnded) for end in reply.ends]
    assert ends == [("waits", CANCELLED), ("t1", CANCELLED)]


def test_cancel_reaches_a_holder_whose_own_log_lags() -> None:
    """eva runs t3; the leader tells her at once that her lease is over, before her own copy of the log does."""
    trio = settled()
    client = trio.client(ANA)
    client.submit(spec("t1"), spec("t2"), spec("t3"))
    trio.run(20)
    trio.lose(Append, to=EVA)
    asked = client.order(Action.CANCEL, "t3")
    trio.run(20)
    assert client.answers(asked) == DONE
    assert trio.messages(Stops) == [Stops(Term(2), [lease("t3", 4)])]
    assert trio[EVA].stopped == [("t3", 4)]


def test_redrive_and_drop_of_dead_letters() -> None:
    """S0-06: a dead letter goes back in line with its attempts forgotten, or is given up for good."""
    trio, client = one_runs_one_is_dead()
    assert ordered(trio, client, Action.RETRY, "dead") == DONE
    [token] = [token for name in ALL for task, token in trio[name].runs if task == "dead" and token != 4]
    holder = trio.leader.node.ledger.tasks[TaskId("dead")].node_id
    trio.ends(holder, "dead", token, error="ValueError: again")
    trio.run(20)
    assert states(trio)["dead"] == DEAD
    assert ordered(trio, client, Action.DROP, "dead") == DONE
    assert client.task("dead").state == "failed"
    assert trio.leader.node.ledger.counts[FAILED] == 1
    assert ordered(trio, client, Action.RETRY, "t1") == ordered(trio, client, Action.DROP, "t1") == REFUSED
    ended = [(Code.REFUSED, "the task has ended, and is no dead letter; look at it with `mesh task show`")]
    assert ordered(trio, client, Action.RETRY, "dead") == ordered(trio, client, Action.DROP, "dead") == ended
    assert ordered(trio, client, Action.DROP, "nothing") == UNKNOWN


def test_drain_and_undrain() -> None:
    """S0-26: what drains keeps what it runs and gets nothing more, until it may again."""
    trio, client = one_runs_one_is_dead()
    assert ordered(trio, client, Action.DRAIN, "ana") == DONE
    assert ordered(trio, client, Action.DRAIN, "ana") == ALREADY
    client.submit(*(spec(f"more{number}") for number in range(6)))
    trio.run(20)
    assert trio[ANA].runs == [("t1", 4)]
    admins = [node.admin for node in client.now(Question.STATUS, Status).nodes]
    assert admins == ["draining", "active", "active"]
    assert ordered(trio, client, Action.UNDRAIN, "ana") == DONE
    client.submit(spec("again"))
    trio.run(20)
    assert [task for task, _ in trio[ANA].runs] == ["t1", "again"]
    assert ordered(trio, client, Action.DRAIN, "zoe") == [(Code.NOT_FOUND, "there is no node 'zoe'")]


def test_recover_gives_a_nodes_tasks_to_others_and_admits_it_again() -> None:
    """S0-25, S0-30: eva is given up by hand: t3 runs elsewhere, her failure counts, and being well she is admitted."""
    trio = settled()
    client = trio.client(ANA)
    client.submit(spec("t1"), spec("t2"), spec("t3"))
    trio.run(20)
    assert ordered(trio, client, Action.RECOVER, "eva") == DONE
    trio.run(2_000)
    assert trio[EVA].stopped == [("t3", 4)]
    [again] = [name for name in ALL for task, token in trio[name].runs if task == "t3" and token != 4]
    status = client.now(Question.STATUS, Status)
    assert [node.failure_count for node in status.nodes] == [0, 0, 1]
    events = client.now(Question.EVENTS, EventPage, limit=1_000).events
    told = [(line.event, line.node, line.detail) for line in events if line.event.startswith("node_") and line.detail]
    assert told == [("node_failed", "eva", "given up by hand")]
    assert trio.leader.node.ledger.nodes[EVA].active
    assert again in ALL
    assert ordered(trio, client, Action.RECOVER, "zoe") == [(Code.NOT_FOUND, "there is no node 'zoe'")]


def test_rebalance_gives_back_what_has_not_begun_and_burns_no_attempt() -> None:
    """S0-26: ana held everything while she was alone. The others come, and take over what she has not begun."""
    trio = settled(capabilities=())
    trio.feed(ANA, AgentsReady(("code",)))
    client = trio.client(ANA)
    client.submit(*(spec(f"t{number}") for number in range(4)))
    trio.run(20)
    assert len(trio[ANA].runs) == 4
    trio.begins(ANA, "t0", 4)
    for name in (BEN, EVA):
        trio.feed(name, AgentsReady(("code",)))
    trio.run(20)
    assert ordered(trio, client, Action.REBALANCE) == [(Code.OK, "2 leases given back")]
    assert sorted(len(host.node.holding.attempts.held()) for host in trio.hosts.values()) == [1, 1, 2]
    assert [task.attempts for task in trio.leader.node.ledger.tasks.values()] == [1, 0, 0, 0]
    assert ordered(trio, client, Action.REBALANCE) == [(Code.OK, "0 leases given back")]


def test_transfer_hands_leadership_over() -> None:
    """CONTRACT `mesh raft transfer`: to whoever leads already, to a stranger, to ben; and a second one meanwhile."""
    trio = settled()
    client = trio.client(ANA)
    assert client.answers(client.order(Action.TRANSFER, "ana")) == [(Code.OK, "ana leads already")]
    assert client.answers(client.order(Action.TRANSFER, "zoe")) == [(Code.NOT_FOUND, "'zoe' is not a voter")]
    assert client.answers(client.order(Action.TRANSFER, "ben")) == [(Code.OK, "leadership goes to ben")]
    busy = "leadership cannot be handed over just now; try again"
    assert client.answers(client.order(Action.TRANSFER, "eva")) == [(Code.REFUSED, busy)]
    client.submit(spec("t1"))
    trio.run(50)
    assert trio.leader.name == BEN
    assert trio[ANA].node.raft.leader_id == BEN


def test_what_arrives_while_leadership_is_handed_over_waits_and_is_not_lost() -> None:
    """The target does not answer: after one election timeout ana goes on, and takes in what came meanwhile."""
    trio = settled()
    trio.cut(BEN)
    client = trio.client(ANA)
    client.order(Action.TRANSFER, "ben")
    client.submit(spec("t1"))
    trio.run(200)
    assert states(trio) == {}
    trio.run(200)
    assert states(trio) == {"t1": DISPATCHED}


def test_a_checkpoint_saved_by_hand_stands_beside_the_attempts_own() -> None:
    """S0-28: somebody saves for t1 while it runs; its own first checkpoint is kept all the same, and answered."""
    trio, client = one_runs_one_is_dead()
    assert ordered(trio, client, Action.CHECKPOINT, "t1", value=b"\x0a") == DONE
    assert (client.task("t1").checkpoint, client.task("t1").attempts) == (10, 0)
    trio.saves(ANA, "t1", 4, 1, b"\x14")
    trio.run(20)
    assert [(kept.sequence, kept.kept) for kept in trio[ANA].kept] == [(1, True)]
    assert (client.task("t1").checkpoint, client.task("t1").attempts) == (20, 1)
    assert ordered(trio, client, Action.CHECKPOINT, "t1", value=b"\x1e") == DONE
    trio.saves(ANA, "t1", 4, 2, b"\x28")
    trio.run(20)
    assert client.task("t1").checkpoint == 40
    assert [kept.sequence for kept in trio[ANA].kept] == [1, 2]


def test_two_checkpoints_by_hand_at_once_are_both_kept_in_order() -> None:
    trio, client = one_runs_one_is_dead()
    asked = [client.order(Action.CHECKPOINT, "t1", value=value) for value in (b"\x01", b"\x02")]
    trio.run(20)
    assert [client.answers(one) for one in asked] == [DONE, DONE]
    assert client.task("t1").checkpoint == 2


def test_only_what_runs_has_a_checkpoint_to_save() -> None:
    trio, client = one_runs_one_is_dead()
    for name in ("waits", "dead", "nothing"):
        text = f"no attempt of task {name!r} runs; only a running attempt has a checkpoint"
        assert ordered(trio, client, Action.CHECKPOINT, name, value=b"\x01") == [(Code.NOT_FOUND, text)]


@pytest.mark.parametrize("action", [99, 1_000, -1])
@pytest.mark.parametrize("target", ["", "ana", "t1"])
def test_an_unknown_action_is_invalid_whatever_its_target(action: int, target: str) -> None:
    trio, client = one_runs_one_is_dead()
    before = trio.leader.node.ledger.applied_index
    assert ordered(trio, client, action, target) == [(Code.INVALID, f"unknown action {action}")]
    assert trio.leader.node.ledger.applied_index == before


def test_the_same_order_of_two_people_is_done_once_and_answered_twice() -> None:
    trio, client = one_runs_one_is_dead()
    other = trio.client(EVA)
    asked = [(one, one.order(Action.CANCEL, "waits")) for one in (client, other)]
    trio.run(20)
    assert [one.answers(number) for one, number in asked] == [DONE, DONE]
    assert states(trio) == {"t1": DISPATCHED, "dead": DEAD}


def test_an_order_shares_its_entry_with_whatever_came_in_that_turn() -> None:
    """A submit before it and one after it; each is answered for what it was."""
    trio, _ = one_runs_one_is_dead()
    client = trio.client(ANA)
    client.say(SubmitTasks(False, [spec("one")]), ends_turn=False)
    client.say(Order(7, Action.CANCEL, "waits"), ends_turn=False)
    client.submit(spec("two"), watch=False)
    trio.run(20)
    [accepted] = client.told(Accepted)
    assert (accepted.task_ids, client.answers(7)) == (["one", "two"], DONE)
    assert [line.index for line in client.now(Question.EVENTS, EventPage, after="5").events] == [accepted.index] * 5


def test_an_order_whose_fate_is_not_known_is_not_answered() -> None:
    """ana is deposed with it on the way: it may be done or not, so she says nothing, and remembers nothing."""
    trio, _ = one_runs_one_is_dead()
    client = trio.client(ANA)
    trio.cut(ANA)
    asked = client.order(Action.CANCEL, "waits")
    trio.run(3_000)
    trio.heal()
    trio.run(1_000)
    assert client.answers(asked) == []
    assert states(trio)["waits"] == PENDING


def test_no_more_orders_wait_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same order again and again counts each time. One that nobody waits for any more makes room."""
    monkeypatch.setattr(orders, "ORDERS_MAX", 2)
    trio, client = one_runs_one_is_dead()
    ana = trio.client(ANA)
    trio.cut(BEN, ANA)
    trio.cut(EVA, ANA)
    asked = [ana.order(Action.CANCEL, "waits") for _ in range(3)]
    assert [ana.answers(one) for one in asked] == [
        [],
        [],
        [(Code.BACKPRESSURE, "too many orders wait; try again")],
    ]
    trio.heal()
    trio.run(200)
    assert [ana.answers(one) for one in asked[:2]] == [DONE, DONE]
    assert ordered(trio, client, Action.CANCEL, "t1") == DONE


def test_rebalance_is_refused_while_what_was_given_back_has_not_left() -> None:
    """Ordered over and over in one turn it would pile up the same commands without end."""
    trio, _ = one_runs_one_is_dead()
    client = trio.client(ANA)
    dispatcher = trio[ANA].node.leading.dispatcher
    for _ in range(orders.ORDERS_MAX):
        dispatcher.submit(spec("x"))
    asked = client.order(Action.REBALANCE)
    assert client.answers(asked) == [(Code.BACKPRESSURE, "too many orders wait; try again")]


def test_a_learner_beyond_the_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "ORDERS_MAX", 1)
    trio = settled()
    client = trio.client(ANA)
    trio.cut(ANA)
    first = client.order(Action.ADD_LEARNER, "zoe@zoe:1")
    second = client.order(Action.ADD_LEARNER, "zoe@zoe:1")
    assert client.answers(first) == []
    assert client.answers(second) == [(Code.BACKPRESSURE, "too many orders wait; try again")]


def test_a_configuration_that_was_replaced_is_nobodys_answer() -> None:
    """zoe's entry at 6 was ana's alone. Another configuration is committed there, and of zoe nothing is said."""
    trio = settled()
    trio.cut(ANA)
    client = trio.client(ANA)
    for name in ("one", "two"):
        client.submit(spec(name))
    asked = client.order(Action.ADD_LEARNER, "zoe@zoe:1")
    assert trio[ANA].node.raft.configuration_at(LogIndex(6)) != trio[BEN].node.raft.configuration
    trio.run(2_500)
    other = trio.client(BEN)
    while trio[BEN].node.raft.last_index < 5:
        other.submit(spec("filler"))
        trio.run(10)
    fay = other.order(Action.ADD_LEARNER, "fay@fay:1")
    trio.heal()
    trio.run(500)
    assert other.answers(fay) == DONE
    assert client.answers(asked) == []
    learners = [member.node_id for member in trio[ANA].node.raft.configuration.learners]
    assert learners == ["fay"]


def test_a_target_names_a_node_by_its_last_at_sign() -> None:
    named = member("zoe@home@10.0.0.1:7000")
    assert named is not None
    assert (named.node_id, named.address) == (NodeId("zoe@home"), "10.0.0.1:7000")


def test_answers_carry_the_number_of_their_request() -> None:
    """Numbers are the client's own; the largest comes back as it went."""
    trio = settled()
    client = trio.client(BEN)
    client.requests = (1 << 64) - 2
    asked = client.order(Action.CANCEL, "nothing")
    trio.run(20)
    assert client.told(Answer) == [Answer((1 << 64) - 1, *UNKNOWN[0], b"")]
    assert asked == (1 << 64) - 1


def test_a_checkpoint_by_hand_is_no_answer_to_the_attempts_own() -> None:
    """t1's own checkpoint is lost on its way when somebody saves by hand: the handler waits until its own is kept."""
    trio = settled()
    client = trio.client(ANA)
    client.submit(spec("t1"), spec("t2"))
    trio.run(20)
    trio.lose(CheckpointReport, times=1)
    trio.saves(BEN, "t2", 4, 1, b"\x14")
    assert ordered(trio, client, Action.CHECKPOINT, "t2", value=b"\x0a") == DONE
    assert trio[BEN].kept == []
    trio.run(1_500)
    assert [kept.sequence for kept in trio[BEN].kept] == [1]
    assert client.task("t2").checkpoint == 20


def test_what_two_ask_for_is_done_once() -> None:
    """Both put the same dead letter back. Written twice, it might be put back again after both were told."""
    trio, one = one_runs_one_is_dead()
    other = trio.client(trio.leader.name)
    last = trio.leader.node.raft.last_index
    first, second = one.order(Action.RETRY, "dead"), other.order(Action.RETRY, "dead")
    trio.run(20)
    assert (one.answers(first), other.answers(second)) == ([(Code.OK, "done")], [(Code.OK, "done")])
    entries = trio.leader.node.raft.log.between(last, trio.leader.node.raft.last_index)
    batches = [decode_batch(entry.data) for entry in entries if entry.kind == EntryKind.COMMANDS]
    written = [command for batch in batches for command in batch.commands if type(command) is RedriveTask]
    assert written == [RedriveTask(TaskId("dead"))]
