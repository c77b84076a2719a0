"""Questions: answered by the leader as of now, by anybody as of what he has, and never by guessing (S0-02)."""

from typing import Any

import pytest

from mesh.config import DispatchConfig, GossipConfig
from mesh.documents import (
    Explanation,
    NodeVerdict,
    NodeView,
    RaftPeer,
    RaftStatus,
    Status,
    Task,
    TaskCounts,
)
from mesh.effects import LoadHistory, LoadRows
from mesh.events import HistoryLoaded, RowsLoaded
from mesh.ids import NodeId
from mesh.ledger.task import CANCELLED
from mesh.messages import Accepted, Action, Append, AppendReply, Code, Question
from mesh.node import clients
from mesh.node.clients import NO_LEADER, NOT_SERVING
from mesh.raft.replica import Role
from tests.node.client import EPOCH_MS, Client, spec
from tests.node.trio import ALL, ANA, BEN, EVA, settled

# --- status and raft ---


@pytest.mark.parametrize("name", ALL)
def test_status_of_a_healthy_mesh(name: NodeId) -> None:
    """CONTRACT `mesh status`: asked at any node, answered by ana, who leads; every field."""
    trio = settled()
    trio.client(ANA).submit(spec("t1"), spec("t2", capability="nobody"))
    trio.run(20)
    client = trio.client(name)
    asked = client.ask(Question.STATUS)
    trio.run(5)
    status = client.document(asked, Status)
    ages_ms = [node.last_heartbeat_ms for node in status.nodes]
    assert ages_ms[0] == 0 < ages_ms[1] == ages_ms[2] < 1_000
    assert status == Status(
        version=1,
        cluster="c",
        leader="ana",
        term=2,
        commit_index=4,
        quorum=True,
        stale=False,
        nodes=[
            NodeView(
                id=node,
                address=f"{node}:7000",
                pid=1,
                role="voter",
                leader=node == "ana",
                health="healthy",
                admin="active",
                capabilities=["code"],
                slots=4,
                running=1 if node == "ana" else 0,
                last_heartbeat_ms=age_ms,
                incarnation=1,
            )
            for node, age_ms in zip(ALL, ages_ms, strict=True)
        ],
        tasks=TaskCounts(pending=1, running=1),
        served_by="ana",
    )


def test_status_without_a_leader_is_answered_all_the_same_and_says_that_it_is_stale() -> None:
    """ben is alone: no leader, no quorum, and two nodes that failed."""
    trio = settled()
    trio.kill(ANA)
    trio.kill(EVA)
    trio.run(5_000)
    status = trio.client(BEN).now(Question.STATUS, Status)
    assert (status.leader, status.quorum, status.stale, status.served_by) == (None, False, True, "ben")
    assert [(node.id, node.health) for node in status.nodes] == [
        ("ana", "failed"),
        ("ben", "healthy"),
        ("eva", "failed"),
    ]
    raft = trio.client(BEN).now(Question.RAFT, RaftStatus)
    assert (raft.leader, raft.serving, raft.peers[0].state) == (None, False, "")


def test_a_stale_status_says_whether_a_quorum_is_in_sight() -> None:
    """ben still follows ana, whom he hears; asked for what he has, he answers himself, at once."""
    trio = settled()
    client = trio.client(BEN)
    asked = client.ask(Question.STATUS, stale=True)
    status = client.document(asked, Status)
    assert (status.leader, status.quorum, status.stale, status.served_by) == ("ana", True, True, "ben")


def test_a_stale_status_of_a_node_that_hears_nobody_has_no_quorum() -> None:
    """ben hears ana's appends but nobody's heartbeats: he will not vouch for a quorum."""
    trio = settled(gossip=GossipConfig(heartbeat_interval_ms=50, failure_threshold=2))
    trio.lose(AppendReply)
    trio.cut(ANA, EVA)
    trio.cut(BEN, EVA)
    trio.run(200)
    status = trio.client(EVA).now(Question.STATUS, Status, stale=True)
    assert (status.leader, status.quorum) == ("ana", False)


def test_raft_status_shows_who_trails() -> None:
    """CONTRACT `mesh raft status`: eva is cut off and trails by what was written since."""
    trio = settled()
    trio.cut(EVA)
    trio.client(ANA).submit(spec("t1"))
    trio.run(20)
    raft = trio.client(ANA).now(Question.RAFT, RaftStatus)
    ana = trio[ANA].node
    assert raft == RaftStatus(
        node="ana",
        role="leader",
        leader="ana",
        term=2,
        commit_index=4,
        applied_index=4,
        first_index=1,
        last_index=4,
        serving=True,
        digest=ana.ledger.digest.hex(),
        peers=[
            RaftPeer("ana", "ana:7000", "voter", 4, 0, "self"),
            RaftPeer("ben", "ben:7000", "voter", 4, 0, "replicate"),
            RaftPeer("eva", "eva:7000", "voter", 3, 1, "replicate"),
        ],
    )


# --- reading what was just written ---


def test_an_answer_that_is_not_stale_needs_a_quorum_now() -> None:
    """ana is cut off and does not know it yet: she answers nothing from her table, and refuses once out of office."""
    trio = settled()
    trio.client(ANA).submit(spec("t1"))
    trio.run(20)
    trio.cut(ANA)
    client = trio.client(ANA)
    asked = client.ask(Question.TASK, task_id="t1")
    trio.run(200)
    assert client.answers(asked) == []
    trio.run(300)
    assert client.answers(asked) == [(Code.UNAVAILABLE, NOT_SERVING)]
    stale = client.now(Question.TASK, Task, task_id="t1", stale=True)
    assert (stale.id, stale.stale) == ("t1", True)


def test_whoever_asks_after_an_answer_sees_what_it_said() -> None:
    """A submit through eva is accepted; asked through ben right then, the task is there."""
    trio = settled()
    eva, ben = trio.client(EVA), trio.client(BEN)
    eva.submit(spec("t1"))
    while not eva.told(Accepted):
        trio.run(1)
    asked = ben.ask(Question.TASK, task_id="t1")
    trio.run(10)
    assert ben.document(asked, Task).state == "dispatched"


def test_questions_in_office_but_without_a_leader_are_refused_by_kind() -> None:
    """Nobody leads: what needs the truth is refused and says so; asking again is up to the client."""
    trio = settled()
    trio.kill(ANA)
    trio.kill(EVA)
    trio.run(3_000)
    client = trio.client(BEN)
    for question in (Question.TASK, Question.TASKS, Question.DEAD_LETTERS, Question.EVENTS, Question.EXPLAIN):
        assert client.answers(client.ask(question, task_id="t1")) == [(Code.UNAVAILABLE, NO_LEADER)]
    assert client.answers(client.order(Action.CANCEL, "t1")) == [(Code.UNAVAILABLE, NO_LEADER)]


@pytest.mark.parametrize("question", [99, 1_000, -1, 1 << 40])
def test_an_unknown_question_is_invalid(question: int) -> None:
    trio = settled()
    client = trio.client(BEN)
    asked = client.ask(question)
    stale = client.ask(question, stale=True)
    trio.run(20)
    assert client.answers(asked) == client.answers(stale) == [(Code.INVALID, f"unknown question {question}")]


# --- why a task waits ---


def explained(client: Client, name: str, **fields: Any) -> tuple[str, str, int | None, list[NodeVerdict]]:
    found = client.now(Question.EXPLAIN, Explanation, task_id=name, **fields)
    return found.reason, found.summary, found.position, found.nodes


def test_explain_says_in_one_sentence_why_a_task_is_where_it_is() -> None:
    """Issue 2, bad input: no node offers it; all are full; it runs; it is dead; it has ended."""
    trio = settled(slots=1)
    client = trio.client(BEN)
    client.submit(spec("odd", capability="paint"), spec("dead", attempts_max=1), spec("runs"), spec("also"))
    client.submit(spec("first"), spec("second"))
    trio.run(20)
    trio.ends(ANA, "dead", 4, error="no", final=True)
    trio.run(20)
    full = [NodeVerdict(name, False, "is full: 1 of 1 slots taken", "load") for name in ALL]
    whys = "; ".join(f"{name} is full: 1 of 1 slots taken" for name in ALL)
    offers = [NodeVerdict(name, False, "does not offer 'paint' (it offers code)", "capability") for name in ALL]
    lonely = "No node offers the capability 'paint'; it waits until one does."
    assert explained(client, "odd") == ("no_capability", lonely, None, offers)
    waits = f"0 tasks are before it, and no node is free: {whys}."
    assert explained(client, "second") == ("no_free_node", waits, 0, full)
    runs = "It runs on ben (attempt under token 4)."
    assert explained(client, "runs") == ("running", runs, None, [])
    assert explained(client, "dead") == ("dead", "It is a dead letter after 1 attempts: no", None, [])
    client.order(Action.CANCEL, "second")
    trio.run(2_000)
    assert explained(client, "second") == ("finished", "It has ended: cancelled.", None, [])
    missing = client.ask(Question.EXPLAIN, task_id="nothing")
    trio.run(20)
    assert client.answers(missing) == [(Code.NOT_FOUND, "there is no task 'nothing'")]


def test_explain_of_a_task_that_waits_for_its_time() -> None:
    """Nobody holds it up: its next attempt has a time."""
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("later", after_ms=60_000))
    trio.run(20)
    found = client.now(Question.EXPLAIN, Explanation, task_id="later")
    assert (found.reason, found.state, found.next_attempt_at) == ("scheduled", "scheduled", 60_000 + EPOCH_MS)
    assert [verdict.fits for verdict in found.nodes] == [True, True, True]


def test_explain_of_a_task_that_is_next() -> None:
    """A node is free; ana's disk hangs, so the grant has not been proposed yet."""
    trio = settled(slots=1, dispatch=DispatchConfig(entries_in_flight_max=1))
    client = trio.client(ANA)
    client.submit(spec("a"), spec("b"), spec("c"), spec("d"))
    trio.run(20)
    trio[ANA].node.leading.dispatcher.candidates[BEN].slots = 2
    trio[ANA].node.detector.member(BEN).last = None  # type: ignore[union-attr]
    assert explained(client, "d", stale=True) == (
        "next",
        "A node is free for it; 0 tasks are before it.",
        0,
        [
            NodeVerdict("ana", False, "is full: 1 of 1 slots taken", "load"),
            NodeVerdict("ben", True, "fits"),
            NodeVerdict("eva", False, "is full: 1 of 1 slots taken", "load"),
        ],
    )


def test_a_follower_that_explains_does_not_pretend_to_know_the_nodes() -> None:
    """eva has the table and no desk: which nodes are free she cannot say, and she does not say that none is."""
    trio = settled()
    trio.client(ANA).submit(spec("odd", capability="paint"))
    trio.run(20)
    client = trio.client(EVA)
    waits = "It waits; which nodes are free for it only the leader knows."
    assert explained(client, "odd", stale=True) == ("waiting", waits, None, [])


# --- bounds ---


def test_no_more_questions_wait_than_waiting_max() -> None:
    """ben and eva are silent: two questions of one turn wait for a round, and there is no room for a third."""
    trio = settled(dispatch=DispatchConfig(waiting_max=2))
    trio.lose(Append)
    client = trio.client(ANA)
    waiting = [client.ask(Question.STATUS, ends_turn=False), client.ask(Question.STATUS)]
    full = client.ask(Question.STATUS)
    assert client.answers(full) == [(Code.BACKPRESSURE, "too many requests wait; try again")]
    assert client.document(client.ask(Question.STATUS, stale=True), Status).stale
    trio.heal()
    trio.run(100)
    assert [len(client.answers(asked)) for asked in waiting] == [1, 1]
    client.submit(spec("t1"))
    trio.run(20)
    assert client.task("t1").state == "dispatched"


def test_questions_of_one_turn_share_the_bound() -> None:
    """Two come in one turn, before they are given a round; the third finds no room."""
    trio = settled(dispatch=DispatchConfig(waiting_max=2))
    trio.lose(Append)
    client = trio.client(ANA)
    asked = [client.ask(Question.STATUS, ends_turn=False) for _ in range(3)]
    assert [len(client.answers(one)) for one in asked] == [0, 0, 1]
    trio.cut(ANA)
    trio.run(400)
    assert trio[ANA].node.raft.role is Role.FOLLOWER
    assert [client.answers(one)[0][0] for one in asked] == [Code.UNAVAILABLE, Code.UNAVAILABLE, Code.BACKPRESSURE]


def test_no_more_reads_wait_for_the_disk_than_loads_max(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is stuck; the third read is refused. A watch beyond the bound gets no answer, and asks again."""
    monkeypatch.setattr(clients, "LOADS_MAX", 2)
    trio = settled()
    trio[BEN].are_reads_stuck = True
    client = trio.client(BEN)
    asked = [client.ask(Question.TASKS, stale=True) for _ in range(3)]
    assert [client.answers(one) for one in asked] == [
        [],
        [],
        [(Code.BACKPRESSURE, "too many reads wait for the disk; try again")],
    ]
    trio[ANA].are_reads_stuck = True
    ana = trio.client(ANA)
    for name in ("p", "q", "r"):
        ana.watch(name)
    assert [load.task_ids for load in trio[ANA].effects(LoadRows)] == [["p"], ["q"]]


def test_answers_of_the_store_to_nobody_are_dropped() -> None:
    """A late or doubled answer; the question is gone."""
    trio = settled()
    trio.feed(ANA, RowsLoaded(99, [], ""))
    trio.feed(ANA, HistoryLoaded(99, []))
    assert trio[ANA].effects(LoadRows) == []
    assert trio[ANA].effects(LoadHistory) == []


def test_a_page_is_never_larger_than_a_thousand() -> None:
    """Nor made of the events of more than a hundred entries, each of which may have a thousand."""
    trio = settled()
    client = trio.client(ANA)
    client.ask(Question.EVENTS, limit=1 << 40, stale=True)
    client.ask(Question.TASKS, limit=-5, stale=True, states=(CANCELLED,))
    assert [load.limit for load in trio[ANA].effects(LoadHistory)] == [100]
    assert [load.limit for load in trio[ANA].effects(LoadRows)] == [2]
