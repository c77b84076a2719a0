"""The node as a whole: what it makes of rubbish, of sleep, of a broken disk; and what it says of itself."""

from random import Random

import msgspec
import pytest

from mesh.config import GossipConfig, NodeConfig, RaftConfig
from mesh.documents import Status
from mesh.durable import Recovered
from mesh.effects import Channel, Notice, Persist, Publish
from mesh.events import (
    AgentsReady,
    AttemptsEnded,
    ClientMessage,
    DeadlineReached,
    DiskFailed,
    Durable,
    Event,
    GossipReceived,
    LinkDown,
    LinkUp,
    MachineMeasured,
    PeerMessage,
    TurnEnded,
)
from mesh.gossip.members import Health
from mesh.ids import ClientId, FencingToken, LogIndex, NodeId, PersistToken, TaskId, Term
from mesh.ledger.ledger import Ledger
from mesh.ledger.task import COMPLETED, DISPATCHED
from mesh.messages import (
    Accepted,
    Answer,
    Append,
    AppendReply,
    AttemptOrder,
    AttemptOutcome,
    Code,
    Forward,
    Grants,
    Heartbeat,
    LeaderHint,
    PreVote,
    PreVoteReply,
    Question,
    Relay,
    SnapshotChunk,
    SubmitTasks,
    TasksEnded,
    Vote,
    VoteReply,
    WatchTasks,
)
from mesh.node import Node, clients
from mesh.node.clients import NOT_SERVING
from mesh.node.node import CTL_BYTES_MAX, HELD_MAX
from mesh.raft.replica import Role
from mesh.wire.codec import decode_heartbeat, encode
from tests.node.client import spec
from tests.node.trio import ALL, ANA, BEN, EVA, Trio, settled

RUBBISH = [
    b"",
    b"\xc1",
    b"rubbish",
    encode(None),
    encode({"a": 1}),
    encode([]),
    encode([999, 1]),
    encode([5, "not", "an", "append"]),
    encode(SubmitTasks(True, [spec("t")]))[:-3],
    b"\x91" * 100_000,
    b"\xdd\xff\xff\xff\xff",
]
EMPTY = Recovered(None, [], Term(0), None, [], [], 0)


def heartbeats(node: Node, now_ms: int) -> list[Heartbeat]:
    """What a node publishes when it is woken now."""
    effects = node.handle(DeadlineReached(), now_ms)
    return [decode_heartbeat(effect.data) for effect in effects if isinstance(effect, Publish)]


# --- rubbish ---


@pytest.mark.parametrize("data", RUBBISH, ids=range(len(RUBBISH)))
def test_rubbish_from_anywhere_is_counted_and_told_once(data: bytes) -> None:
    """Issue 2, bad input: a peer, a client, a heartbeat and a forwarded request of no meaning. Nothing else happens."""
    trio = settled()
    node = trio[ANA].node
    before = (node.ledger.digest, node.raft.term, node.raft.last_index)
    for _ in range(3):
        trio.feed(ANA, PeerMessage(BEN, data))
        trio.feed(ANA, ClientMessage(ClientId(77), data))
        trio.feed(ANA, GossipReceived(data))
        trio.tell(ANA, BEN, Forward(ClientId(1), data))
    kinds = ("rubbish_peer_message", "rubbish_client_message", "rubbish_gossip", "rubbish_forwarded")
    assert [notice.code for notice in trio[ANA].notices] == list(kinds)
    assert {kind: node.counters[kind] for kind in kinds} == dict.fromkeys(kinds, 3)
    trio.run(100)
    assert (node.ledger.digest, node.raft.term, node.raft.last_index) == before
    status = trio.client(ANA).now(Question.STATUS, Status)
    assert status.counters == dict.fromkeys(kinds, 3)


def test_well_formed_messages_that_make_no_sense_are_counted_too() -> None:
    """From a stranger, from ourselves, for another mesh, from a past term: dropped; status says how often."""
    trio = settled()
    stranger = NodeId("zoe")
    trio.tell(ANA, stranger, VoteReply(Term(99), True))
    trio.tell(ANA, ANA, Vote(Term(99), LogIndex(99), Term(99), False))
    order = AttemptOrder(TaskId("t"), FencingToken(99), 1, "code", b"", b"")
    trio.tell(ANA, BEN, Grants(Term(1), 1, [order, order]))
    trio.tell(ANA, BEN, Grants(Term(2), 7, [order]))
    beat = decode_heartbeat(encode(heartbeat(stranger, "c")))
    for odd in (beat, heartbeat(BEN, "another mesh"), heartbeat(ANA, "c")):
        trio.feed(ANA, GossipReceived(encode(odd)))
    assert trio[ANA].node.counted() == {
        "raft_messages_dropped": 2,
        "grants_from_past_term": 2,
        "grants_for_past_incarnation": 1,
        "heartbeats_dropped": 3,
    }
    assert trio[ANA].node.raft.term == 2


def heartbeat(name: NodeId, cluster: str) -> Heartbeat:
    node = Node(NodeConfig(node_id=name, cluster=cluster, incarnation=1, address="h:1", voters=()), EMPTY, Random(1), 0)
    [beat] = heartbeats(node, 0)
    return beat


# --- sleep ---


def test_time_never_goes_back() -> None:
    """A clock that jumps back is not believed: the node goes on at the time it has seen."""
    trio = settled()
    node = trio[ANA].node
    node.handle(TurnEnded(), 3_000)
    node.handle(TurnEnded(), 2_000)
    assert node.now_ms == 3_000


# --- disk ---


def test_a_broken_disk_ends_office_for_good() -> None:
    """ana leads, her disk fails: another leads, and ana never votes, leads or acknowledges again while she runs."""
    trio = settled()
    trio.feed(ANA, DiskFailed("no space left on device"))
    assert trio[ANA].notices == [Notice("disk_failed", "no space left on device")]
    assert not trio[ANA].node.leading.dispatcher.in_office
    client = trio.client(ANA)
    client.submit(spec("t1"))
    asked = client.ask(Question.TASKS)
    assert [code for code, _ in client.answers(asked)] == [Code.UNAVAILABLE]
    trio.said.clear()
    trio.run(5_000)
    assert trio.leader.name == BEN
    assert trio.messages(Append, sender=ANA) + trio.messages(AppendReply, sender=ANA) == []
    trio.kill(EVA)
    trio.run(5_000)
    assert trio.messages(VoteReply, sender=ANA) + trio.messages(PreVoteReply, sender=ANA) == []
    assert trio[ANA].node.raft.role is Role.FOLLOWER


def test_a_follower_with_a_broken_disk_counts_in_no_quorum() -> None:
    """eva's disk is gone and ben is down: ana alone is no quorum, however eagerly eva listens."""
    trio = settled()
    trio.feed(EVA, DiskFailed("Input/output error"))
    trio.kill(BEN)
    client = trio.client(ANA)
    client.submit(spec("t1"))
    trio.run(2_000)
    assert client.told(Accepted) == []
    assert not trio[ANA].node.raft.serving


def test_a_leader_whose_disk_hangs_makes_room() -> None:
    """DESIGN: a leader whose disk hangs must lose office. Two seconds, and ben leads."""
    trio = settled()
    trio[ANA].is_disk_stuck = True
    trio.client(ANA).submit(spec("t1"))
    trio.run(1_900)
    assert trio[ANA].node.raft.serving
    trio.run(3_000)
    assert trio.leader.name in (BEN, EVA)


# --- one node ---


def test_a_mesh_of_one_serves_alone() -> None:
    """CONTRACT `mesh node run` without voters: it leads as soon as its disk has the founding entry, and does all."""
    config = NodeConfig(node_id="ana", cluster="c", incarnation=1, address="ana:1", voters=(("ana", "ana:1"),), slots=1)
    node = Node(config, EMPTY, Random(1), 0)
    token = 0

    def tell(event: Event, now_ms: int) -> None:
        """With a disk that syncs at once."""
        nonlocal token
        effects = node.handle(event, now_ms)
        for _ in range(3):
            token = max([token, *(effect.token for effect in effects if isinstance(effect, Persist))])
            effects = node.handle(Durable(PersistToken(token)), now_ms) + node.handle(TurnEnded(), now_ms)

    tell(AgentsReady(("code",)), 0)
    for now_ms in range(10):
        tell(DeadlineReached(), now_ms)
    assert node.raft.serving
    tell(ClientMessage(ClientId(1), encode(SubmitTasks(True, [spec("t1")]))), 10)
    task = node.ledger.tasks[TaskId("t1")]
    assert (task.state, task.node_id) == (DISPATCHED, "ana")
    tell(AttemptsEnded([AttemptOutcome(task.task_id, task.token, b"\x01")]), 11)
    assert node.ledger.counts[COMPLETED] == 1


# --- what it says of itself ---


def test_a_heartbeat_says_how_a_node_is() -> None:
    """S0-02: every field, from ben, who runs one task and hears both others."""
    trio = settled()
    trio.client(ANA).submit(spec("t1"), spec("t2"))
    trio.run(20)
    node = trio[BEN].node
    [beat] = heartbeats(node, node._beat_ms)
    assert beat.sequence > 1
    assert (beat.node_id, beat.cluster, beat.incarnation, beat.address, beat.pid) == (BEN, "c", 1, "ben:7000", 1)
    assert (beat.slots, beat.running, beat.held, beat.held_total) == (4, 1, (("t2", 4),), 1)
    assert (beat.capabilities, beat.labels, beat.draining) == (("code",), (), False)
    assert (beat.term, beat.leader, beat.commit, beat.applied) == (2, ANA, 4, 4)
    assert beat.digest == trio[ANA].node.ledger.digest
    assert [(view.node_id, view.incarnation, view.health, view.link_up) for view in beat.views] == [
        (ANA, 1, Health.HEALTHY, True),
        (EVA, 1, Health.HEALTHY, True),
    ]


def test_a_heartbeat_lists_no_more_leases_than_it_may() -> None:
    """1,100 held: 1,024 are listed, and the number of all is said."""
    trio = settled()
    node = trio[BEN].node
    orders = [AttemptOrder(TaskId(f"t{n}"), FencingToken(99), 1, "code", b"", b"") for n in range(1_100)]
    node.holding.attempts.grant(Term(2), orders)
    [beat] = heartbeats(node, node._beat_ms)
    assert (len(beat.held), beat.held_total, beat.running) == (HELD_MAX, 1_100, 1_100)


def test_capabilities_are_told_at_once_and_only_when_they_change() -> None:
    """S0-01: agents that come up later are used later."""
    trio = settled(capabilities=())
    node = trio[BEN].node
    changed = [type(effect) for effect in node.handle(AgentsReady(("paint",)), 3_000)]
    again = node.handle(AgentsReady(("paint",)), 3_000)
    assert (changed, again) == ([Publish], [])
    newer = AgentsReady(("paint",), (("paint", "2.1"),))
    [publish] = [effect for effect in node.handle(newer, 3_000) if isinstance(effect, Publish)]
    assert decode_heartbeat(publish.data).versions == (("paint", "2.1"),)


def test_a_heartbeat_says_what_a_node_is_for_and_how_busy_its_machine_is() -> None:
    """S4-17, S4-21: half of the cores and a quarter of the memory are taken; nobody is told before the next beat."""
    trio = settled()
    node = trio[BEN].node
    [before] = heartbeats(node, node._beat_ms)
    assert (before.kind, before.cpu_permille, before.memory_permille) == ("general", 0, 0)
    assert node.handle(MachineMeasured(500, 250), node.now_ms) == []
    [after] = heartbeats(node, node._beat_ms)
    assert (after.cpu_permille, after.memory_permille) == (500, 250)


def test_a_broken_link_is_told_at_once_and_to_everybody() -> None:
    """S0-08: ben's link to eva breaks; he says so without waiting for his next heartbeat. A stranger's is nothing."""
    trio = settled()
    node = trio[BEN].node
    [publish] = [effect for effect in node.handle(LinkDown(EVA), 3_000) if isinstance(effect, Publish)]
    views = {view.node_id: view.link_up for view in decode_heartbeat(publish.data).views}
    assert views == {ANA: True, EVA: False}
    for event in (LinkDown(NodeId("zoe")), LinkUp(NodeId("zoe"), 1)):
        assert node.handle(event, 3_000) == []


def test_a_broken_link_is_told_again_when_grace_is_over_whatever_wakes_the_node() -> None:
    """S0-08: 150 ms later another's heartbeat comes just before ben's timer. He says it once more, and once only."""
    trio = settled()
    [beat] = [effect for effect in trio[ANA].node.handle(LinkDown(EVA), 3_000) if isinstance(effect, Publish)]
    node = trio[BEN].node
    node.handle(LinkDown(EVA), 3_000)
    node.handle(DeadlineReached(), 3_100)
    assert node.next_deadline_ms() <= 3_150
    [again] = [effect for effect in node.handle(GossipReceived(beat.data), 3_150) if isinstance(effect, Publish)]
    assert {view.node_id: view.link_up for view in decode_heartbeat(again.data).views} == {ANA: True, EVA: False}
    assert heartbeats(node, 3_150) == []


def test_votes_never_wait_behind_bulk() -> None:
    """DESIGN, sockets: Raft and offers go to ctl, what is larger than 64 KiB and all else to data, tables to bulk."""
    trio = settled(slots=16)
    client = trio.client(BEN)
    client.submit(spec("small"), spec("large", payload=bytes(CTL_BYTES_MAX)))
    trio.run(50)
    assert trio.channels[Append] == {Channel.CTL, Channel.DATA}
    for kind in (AppendReply, PreVote, PreVoteReply, Vote, VoteReply):
        assert trio.channels[kind] == {Channel.CTL}
    for other in (Grants, Forward, Relay):
        assert trio.channels[other] == {Channel.DATA}
    assert SnapshotChunk not in trio.channels


# --- clients and leaders ---


def test_clients_are_greeted_and_told_of_every_new_leader() -> None:
    """A client speaks, and hears whom to dial; ana dies, and it hears that nobody leads, then who does."""
    trio = settled()
    client = trio.client(BEN)
    client.watch()
    assert client.heard == [LeaderHint(Term(2), ANA, "ana:7000")]
    trio.kill(ANA)
    trio.run(500)
    hints = client.told(LeaderHint)[1:]
    leader = trio.leader.name
    assert hints[0].leader is None
    assert hints[-1] == LeaderHint(trio[leader].node.raft.term, leader, f"{leader}:7000")


def test_an_address_is_what_its_node_says_of_itself() -> None:
    """CONTRACT `--advertise`: ana moved. Her heartbeat says where to; before the first one, the configuration does."""
    trio = settled()
    [beat] = [effect for effect in trio[ANA].node.handle(LinkDown(EVA), 3_000) if isinstance(effect, Publish)]
    moved = msgspec.structs.replace(decode_heartbeat(beat.data), sequence=99, address="elsewhere:9")
    before, after = trio.client(BEN), trio.client(BEN)
    before.watch()
    trio.feed(BEN, GossipReceived(encode(moved)))
    after.watch()
    assert [client.told(LeaderHint)[0].address for client in (before, after)] == ["ana:7000", "elsewhere:9"]
    status = after.document(after.ask(Question.STATUS, stale=True), Status)
    assert [node.address for node in status.nodes] == ["elsewhere:9", "ben:7000", "eva:7000"]


def test_half_of_two_is_no_quorum() -> None:
    """A mesh of two: ben follows ana, whom he hears no more. He will not say that a quorum is there."""
    gossip, raft = GossipConfig(heartbeat_interval_ms=50, failure_threshold=2), RaftConfig(election_timeout_ms=10_000)
    voters = (("ana", "ana:1"), ("ben", "ben:1"))
    config = NodeConfig(
        node_id="ben", cluster="c", incarnation=1, address="ben:1", voters=voters, gossip=gossip, raft=raft
    )
    ben = Node(config, EMPTY, Random(1), 0)
    ben.handle(PeerMessage(ANA, encode(Append(Term(2), LogIndex(1), Term(1), LogIndex(1), 1, ()))), 10)
    assert ben.answers.status(10, stale=True, counters={}).quorum
    for now_ms in range(20, 500, 20):
        ben.handle(DeadlineReached(), now_ms)
    status = ben.answers.status(500, stale=True, counters={})
    assert (status.leader, status.quorum) == ("ana", False)


def test_no_more_clients_are_greeted_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one beyond is served, and has to find the leader itself."""
    monkeypatch.setattr(clients, "CLIENTS_MAX", 1)
    trio = settled()
    first, second = trio.client(BEN), trio.client(BEN)
    for client in (first, second):
        client.submit(spec("t1"))
    trio.run(20)
    assert len(first.told(LeaderHint)) == 1
    assert second.heard == [Accepted(LogIndex(4), [TaskId("t1")])]


def test_a_relay_reaches_the_client_it_is_for() -> None:
    """Another node's word for our client is passed on as it is; not for one that left, or of an earlier start."""
    trio = settled()
    client = trio.client(BEN)
    reply = Answer(1, Code.OK, "", b"")
    trio.tell(BEN, EVA, Relay(client.abroad, encode(reply)))
    trio.tell(BEN, EVA, Relay(ClientId(client.abroad + 1), encode(reply)))
    trio.tell(BEN, EVA, Relay(client.number, encode(reply)))
    assert client.heard == [reply]
    assert trio[BEN].node.counters == {"relays_for_past_incarnation": 1}


def test_a_question_in_the_turn_in_which_another_leader_speaks_is_refused() -> None:
    """ana is told of term 9 before the turn ends: nothing was asked of anybody, so she may say so."""
    trio = settled()
    client = trio.client(ANA)
    asked = client.ask(Question.STATUS, ends_turn=False)
    trio.tell(ANA, BEN, AppendReply(Term(9), 0, False, LogIndex(0), LogIndex(0), LogIndex(0), Term(0)))
    assert client.answers(asked) == [(Code.UNAVAILABLE, NOT_SERVING)]


def test_watching_what_is_on_its_way_what_is_nowhere_and_what_has_ended() -> None:
    """Told when it ends; not told, for it may yet be submitted; told at once, from memory or from disk."""
    trio = settled()
    client = trio.client(ANA)
    client.submit(spec("old"), watch=False)
    trio.run(20)
    trio.ends(ANA, "old", 4)
    trio.run(20)
    client.watch("old")
    assert [len(reply.ends) for reply in client.told(TasksEnded)] == [1]
    trio.run(2_000)
    client.submit(spec("new"), watch=False)
    client.say(WatchTasks([TaskId("new"), TaskId("nowhere"), TaskId("old")]))
    trio.run(20)
    assert [end.task_id for reply in client.told(TasksEnded) for end in reply.ends] == ["old", "old"]
    client.submit(spec("old"), watch=False)
    client.say(WatchTasks([TaskId("nowhere")]))
    [(holder, token)] = [(name, token) for name in ALL for task, token in trio[name].runs if task == "new"]
    trio.ends(holder, "new", token)
    trio.run(20)
    assert [end.task_id for reply in client.told(TasksEnded) for end in reply.ends] == ["old", "old", "new"]


def test_early_watches_are_bounded_and_forgotten_with_the_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elected, not yet serving: one watch is kept here, the second must be said again."""
    monkeypatch.setattr(clients, "EARLY_MAX", 1)
    trio = settled()
    trio.client(ANA).submit(spec("a"), spec("b"))
    trio.run(20)
    trio.kill(ANA)
    while not (elected := [name for name in (BEN, EVA) if trio[name].node.raft.role is Role.LEADER]):
        trio.run(1)
    client = trio.client(elected[0])
    client.watch("a")
    client.watch("b")
    trio.run(1_000)
    tasks = trio.leader.node.ledger.tasks
    for task in ("a", "b"):
        trio.ends(tasks[TaskId(task)].node_id, task, tasks[TaskId(task)].token)
    trio.run(20)
    assert [end.task_id for reply in client.told(TasksEnded) for end in reply.ends] == ["a"]


def test_a_node_that_starts_on_nothing_founds_the_log() -> None:
    """The first thing a fresh node asks of its disk is the founding configuration, in term 1."""
    trio = Trio(gossip=GossipConfig(heartbeat_interval_ms=50))
    for name in ALL:
        persist = trio[name].effects(Persist)[0]
        assert [(entry.index, entry.term) for entry in persist.entries] == [(1, 1)]


def test_replicas_whose_tables_differ_are_told_to_the_operator() -> None:
    """ben's heartbeats say that his table is another one: ana says so once, and counts. At an index of long ago she
    cannot tell."""
    trio = settled()
    trio.run(3_000)
    node = trio[ANA].node
    assert "tables_differ" not in node.counters
    ben = node.detector.member(BEN)
    assert ben is not None and ben.last is not None
    for sequence, applied in ((901, ben.last.applied), (902, ben.last.applied), (903, LogIndex(0))):
        beat = msgspec.structs.replace(ben.last, sequence=sequence, applied=applied, digest=bytes(16))
        trio.feed(ANA, GossipReceived(encode(beat)))
    text = f"ben has another table than ana at log index {node.ledger.applied_index}"
    assert [notice for notice in trio[ANA].notices if notice.code == "tables_differ"] == [Notice("tables_differ", text)]
    assert node.counters["tables_differ"] == 2


def test_digests_are_kept_for_the_last_entries_only() -> None:
    """1,030 entries later the first ones can no longer be compared."""
    ledger = Ledger()
    for index in range(1, 1_031):
        ledger.skip(LogIndex(index), Term(1), b"")
    assert (len(ledger.digests), min(ledger.digests), max(ledger.digests)) == (1_024, 7, 1_030)
