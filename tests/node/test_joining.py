"""eva joins a mesh that ana (or ana and ben) founded: she gets the log, holds leases and gossips, and has no vote.

Whole nodes in virtual time. Messages take a millisecond, disks two; nothing is lost but what a story loses.
"""

import heapq
from random import Random

import msgspec
import pytest

from mesh import effects, events
from mesh.config import NodeConfig
from mesh.documents import RaftPeer, RaftStatus, Status
from mesh.durable import Configuration, Entry, Member, Recovered
from mesh.events import Event
from mesh.ids import ClientId, NodeId, TaskId, Term
from mesh.messages import (
    Accepted,
    Action,
    Answer,
    Ask,
    AttemptOutcome,
    Code,
    Order,
    Question,
    SubmitTasks,
    TasksEnded,
    TaskSpec,
)
from mesh.node import Node
from mesh.raft.replica import Role
from mesh.wire.codec import decode_configuration, decode_reply, encode

ANA, BEN, EVA = NodeId("ana"), NodeId("ben"), NodeId("eva")
CLIENT = ClientId(1)
FRESH = Recovered(None, [], Term(0), None, [], [], 0)
SEND_MS, DISK_MS, RUN_MS = 1, 2, 5


class Stage:
    """Nodes, the wires between them, and one client at ana."""

    def __init__(self, *founders: NodeId) -> None:
        self.now_ms = 1_000
        self.nodes: dict[NodeId, Node] = {}
        self.replies: list[object] = []
        self.ran: list[tuple[NodeId, TaskId]] = []
        self.slow_disks: set[NodeId] = set()
        self.marks: list[effects.WriteLedger] = []
        self.voters = tuple((name, f"{name}:1") for name in founders)
        self._coming: list[tuple[int, int, NodeId, Event]] = []
        self._count = 0
        for name in founders:
            self.start(name)
        self.run(2_000)

    def start(self, name: NodeId, capabilities: tuple[str, ...] = (), recovered: Recovered = FRESH) -> None:
        config = NodeConfig(node_id=name, cluster="c", incarnation=1, address=f"{name}:1", voters=self.voters, slots=2)
        self.nodes[name] = Node(config, recovered, Random(f"7/{name}"), self.now_ms)
        self.say(name, events.AgentsReady(capabilities))

    @property
    def leader(self) -> Node:
        (leader,) = (node for node in self.nodes.values() if node.raft.serving)
        return leader

    def ask(self, request: Order | Ask | SubmitTasks) -> None:
        self.say(ANA, events.ClientMessage(CLIENT, encode(request)))

    def answer(self) -> Answer:
        """The answer to the latest question or order."""
        return [reply for reply in self.replies if type(reply) is Answer][-1]

    def say(self, name: NodeId, event: Event) -> None:
        node = self.nodes[name]
        for one in (event, events.TurnEnded()):
            for effect in node.handle(one, self.now_ms):
                self._perform(name, effect)

    def run(self, duration_ms: int) -> None:
        until_ms = self.now_ms + duration_ms
        while True:
            due_ms, name = min((node.next_deadline_ms(), name) for name, node in self.nodes.items())
            coming_ms = self._coming[0][0] if self._coming else until_ms + 1
            if min(due_ms, coming_ms) > until_ms:
                self.now_ms = until_ms
                return
            self.now_ms = max(self.now_ms, min(due_ms, coming_ms))
            if coming_ms <= due_ms:
                _, _, name, event = heapq.heappop(self._coming)
                self.say(name, event)
            else:
                self.say(name, events.DeadlineReached())

    def _later(self, delay_ms: int, name: NodeId, event: Event) -> None:
        self._count += 1
        heapq.heappush(self._coming, (self.now_ms + delay_ms, self._count, name, event))

    def _perform(self, name: NodeId, effect: effects.Effect) -> None:
        match effect:
            case effects.Persist():
                self._later(9_000 if name in self.slow_disks else DISK_MS, name, events.Durable(effect.token))
            case effects.Send() if effect.to in self.nodes:
                self._later(
                    SEND_MS + (DISK_MS if effect.after else 0), effect.to, events.PeerMessage(name, effect.data)
                )
            case effects.Publish():
                for other in self.nodes:
                    if other != name:
                        self._later(SEND_MS, other, events.GossipReceived(effect.data))
            case effects.StartAttempts():
                self.ran += [(name, order.task_id) for order in effect.orders]
                outcomes = [AttemptOutcome(order.task_id, order.token, encode("done")) for order in effect.orders]
                self._later(RUN_MS, name, events.AttemptsEnded(outcomes))
            case effects.WriteLedger():
                self.marks.append(effect)
                self._later(DISK_MS, name, events.LedgerWritten(effect.write.mark.applied_index))
            case effects.Reply():
                self.replies.append(decode_reply(effect.data))
            case _:
                pass


def members(stage: Stage, name: NodeId) -> list[str]:
    return [member.node_id for member in stage.nodes[name].detector.members()]


def join(stage: Stage) -> None:
    stage.start(EVA, ("paint",))
    stage.ask(Order(1, Action.ADD_LEARNER, "eva@eva:1"))
    stage.run(20)


@pytest.mark.parametrize("founders", [(ANA,), (ANA, BEN)])
def test_a_learner_gets_the_log_runs_tasks_and_has_no_vote(founders: tuple[NodeId, ...]) -> None:
    """20 ms after ana was asked, eva is admitted and has what the others have; the next task is hers alone."""
    stage = Stage(*founders)
    join(stage)
    assert stage.answer() == Answer(1, Code.OK, "done", b"")
    eva, leader = stage.nodes[EVA], stage.leader
    assert [members(stage, name) for name in (*founders, EVA)] == [[*founders, EVA]] * (len(founders) + 1)

    stage.ask(SubmitTasks(True, [TaskSpec(TaskId("t1"), "paint", encode({}))]))
    stage.run(60)
    assert stage.ran == [(EVA, "t1")]
    assert [type(reply) for reply in stage.replies[-2:]] == [Accepted, TasksEnded]
    stage.run(3_000)
    assert (eva.ledger.applied_index, eva.ledger.digest) == (leader.ledger.applied_index, leader.ledger.digest)
    assert leader.raft.configuration.voter_ids == founders
    assert eva.raft.role is Role.FOLLOWER
    assert leader.raft.term == eva.raft.term


def test_a_learner_never_campaigns_though_all_founders_are_gone() -> None:
    """ana dies. eva has the whole log and waits, in the same term, for somebody who may lead."""
    stage = Stage(ANA)
    join(stage)
    term = stage.leader.raft.term
    del stage.nodes[ANA]
    stage.run(10_000)
    assert (stage.nodes[EVA].raft.role, stage.nodes[EVA].raft.term) == (Role.FOLLOWER, term)


def test_a_learner_counts_in_no_majority() -> None:
    """Of ana and ben, ben is gone. eva acknowledges everything, and yet nothing is accepted: two of two are needed."""
    stage = Stage(ANA, BEN)
    join(stage)
    commit = max(node.raft.commit_index for node in stage.nodes.values())
    del stage.nodes[BEN]
    stage.ask(SubmitTasks(True, [TaskSpec(TaskId("t1"), "paint", encode({}))]))
    stage.run(5_000)
    assert max(node.raft.commit_index for node in stage.nodes.values()) <= commit + 2
    assert not any(type(reply) is Accepted for reply in stage.replies)
    assert "t1" not in stage.nodes[EVA].ledger.tasks


def test_asking_twice_is_answered_twice_and_written_once() -> None:
    stage = Stage(ANA)
    join(stage)
    last_index = stage.leader.raft.last_index
    stage.ask(Order(2, Action.ADD_LEARNER, "eva@eva:1"))
    stage.run(10)
    assert stage.answer() == Answer(2, Code.OK, "eva takes part already", b"")
    stage.ask(Order(3, Action.ADD_LEARNER, "ana@ana:1"))
    assert stage.answer() == Answer(3, Code.OK, "ana takes part already", b"")
    assert stage.leader.raft.last_index == last_index


def test_a_second_change_waits_for_the_first() -> None:
    """While eva's entry is on its way to the disk, the same order waits with it, and another is told to come again."""
    stage = Stage(ANA)
    stage.ask(Order(1, Action.ADD_LEARNER, "eva@eva:1"))
    stage.ask(Order(2, Action.ADD_LEARNER, "eva@eva:1"))
    stage.ask(Order(3, Action.ADD_LEARNER, "fay@fay:1"))
    code = (stage.answer().request, stage.answer().code)
    assert code == (3, Code.UNAVAILABLE)
    stage.run(10)
    answered = [(reply.request, reply.code) for reply in stage.replies if type(reply) is Answer]
    assert answered == [(3, Code.UNAVAILABLE), (1, Code.OK), (2, Code.OK)]


@pytest.mark.parametrize("target", ["eva", "@eva:1", "eva@", "", "e" * 201 + "@eva:1"])
def test_a_target_that_names_no_node_is_invalid(target: str) -> None:
    stage = Stage(ANA)
    stage.ask(Order(1, Action.ADD_LEARNER, target))
    assert stage.answer().code == Code.INVALID


def test_what_an_uncommitted_configuration_says_is_not_kept_with_the_table() -> None:
    """ana's disk hangs with eva's entry on it. The table she writes meanwhile knows of ana alone: it may be cut."""
    stage = Stage(ANA)
    for task_id in (TaskId("written at once"), TaskId("written half a second later")):
        stage.ask(SubmitTasks(False, [TaskSpec(task_id, "nobody", encode({}))]))
        stage.run(10)
    stage.slow_disks.add(ANA)
    stage.ask(Order(1, Action.ADD_LEARNER, "eva@eva:1"))
    stage.marks.clear()
    stage.run(1_000)
    ana = Member(ANA, "ana:1")
    assert [decode_configuration(mark.write.mark.configuration) for mark in stage.marks] == [Configuration((ana,))]


def test_a_voter_that_restarts_remembers_who_takes_part() -> None:
    """ana starts again from her log, of which --voters tells only a part; eva is watched and gets the log as before."""
    stage = Stage(ANA)
    join(stage)
    raft = stage.leader.raft
    entries: list[Entry] = raft.log.between(0, raft.last_index)
    hard_state = msgspec.structs.replace(raft._s.hard_state)
    stage.start(ANA, recovered=Recovered(hard_state, entries, Term(0), None, [], [], 0))
    assert members(stage, ANA) == [ANA, EVA]
    stage.run(2_000)
    assert [peer for peer, _, _ in stage.leader.raft.peers()] == [EVA]
    assert stage.nodes[EVA].ledger.digest == stage.leader.ledger.digest


def test_people_see_who_learns() -> None:
    stage = Stage(ANA)
    join(stage)
    stage.ask(Ask(2, Question.RAFT))
    stage.run(10)
    raft = msgspec.msgpack.decode(stage.answer().body, type=RaftStatus)
    last_index = raft.last_index
    assert raft.peers == [
        RaftPeer("ana", "ana:1", "voter", last_index, 0, "self"),
        RaftPeer("eva", "eva:1", "learner", last_index, 0, "replicate"),
    ]
    stage.ask(Ask(3, Question.STATUS))
    stage.run(10)
    status = msgspec.msgpack.decode(stage.answer().body, type=Status)
    assert [(node.id, node.role, node.address, node.capabilities) for node in status.nodes] == [
        ("ana", "voter", "ana:1", []),
        ("eva", "learner", "eva:1", ["paint"]),
    ]
