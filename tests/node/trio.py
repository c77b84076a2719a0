"""Three nodes in memory: ana, ben and eva, each with a disk, and a wire between them. Time passes only in `run`.

A message takes 1 ms, a sync 1 ms, a read of the store 1 ms. Tests lose messages, cut wires, stop disks, kill and pause
nodes, and play the user's code themselves: they look at what was started and say what came of it. Election timeouts are
300, 700 and 1,500 ms, so that ana leads while she can, then ben, then eva.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any, TypeVar

from mesh.config import DispatchConfig, GossipConfig, NodeConfig, RaftConfig
from mesh.effects import (
    Admit,
    CheckpointKept,
    CloseSnapshot,
    Effect,
    InstallSnapshot,
    LoadHistory,
    LoadRows,
    Notice,
    OpenSnapshot,
    Persist,
    Publish,
    ReadSnapshot,
    Reply,
    Retire,
    Send,
    StageSnapshot,
    StartAttempts,
    StopAttempts,
    TrimLog,
    WriteLedger,
)
from mesh.events import (
    AgentsReady,
    AttemptsEnded,
    AttemptsStarted,
    CheckpointOffered,
    DeadlineReached,
    Durable,
    Event,
    GossipReceived,
    LinkDown,
    LinkUp,
    PeerMessage,
    SnapshotOpened,
    SnapshotRead,
    TurnEnded,
)
from mesh.ids import ClientId, FencingToken, NodeId, TaskId
from mesh.messages import AttemptOrder, AttemptOutcome, Lease
from mesh.node import Node
from mesh.node.transfers import GONE
from mesh.wire.codec import decode_peer, decode_reply, encode
from tests.node.client import EPOCH_MS, Client
from tests.node.disk import Disk, Table

ANA, BEN, EVA = NodeId("ana"), NodeId("ben"), NodeId("eva")
ALL = (ANA, BEN, EVA)
VOTERS = tuple((name, f"{name}:7000") for name in ALL)
TIMEOUT_MS = {ANA: 300, BEN: 700, EVA: 1_500}

Said = TypeVar("Said")


def lease(name: str, token: int) -> Lease:
    return TaskId(name), FencingToken(token)


class Host:
    """One node's process and its disk. `node` may only be looked at while it runs."""

    def __init__(self, name: NodeId) -> None:
        self.name = name
        self.disk = Disk()
        self.incarnation = 0
        self.is_up = False
        self.is_paused = False
        self.is_disk_stuck = False
        """What is written stays on its way until a test says `sync`."""
        self.are_reads_stuck = False
        self.node: Node

    def boot(self, node: Node) -> None:
        self.node = node
        self.is_up = True
        self.is_paused = False
        self.inbox: list[Event] = []
        self.held: list[Send] = []
        self.durable = 0
        self.snapshots: dict[int, Table] = {}
        self.clients: dict[ClientId, Client] = {}
        self.started: list[AttemptOrder] = []
        self.stopped: list[Lease] = []
        self.kept: list[CheckpointKept] = []
        self.notices: list[Notice] = []
        self.admits: list[Admit] = []
        self.retired: list[Retire] = []
        self.performed: list[Effect] = []

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Every attempt handed to user code since the process began."""
        return [(order.task_id, order.token) for order in self.started]

    def effects(self, kind: type[Said]) -> list[Said]:
        """All effects of a kind since the process began, messages aside."""
        return [effect for effect in self.performed if isinstance(effect, kind)]


class Trio:
    """The three of them. Every keyword sets them all alike.

    Watched after every event: tables agree wherever they stand at the same entry, and no lease is run twice.
    """

    def __init__(
        self,
        *,
        slots: int = 4,
        capabilities: tuple[str, ...] = ("code",),
        dispatch: DispatchConfig | None = None,
        gossip: GossipConfig | None = None,
        chunk_rows: int = 1_000,
        raft: dict[str, int] | None = None,
        apart: dict[NodeId, dict[str, Any]] | None = None,
        epoch_ms: int = EPOCH_MS,
    ) -> None:
        self.now_ms = 1_000
        self.events = 0
        """Handed in so far, ends of turns aside."""
        self.epoch_ms = epoch_ms
        """How far the wall clock stands ahead, on nodes that start from now on."""
        self.slots = slots
        self.capabilities = capabilities
        self.dispatch = dispatch or DispatchConfig()
        self.gossip = gossip or GossipConfig()
        self.chunk_rows = chunk_rows
        self.raft = raft or {}
        self.apart = apart or {}
        """What of its configuration sets a node apart from the others, from its next start on."""
        self.hosts = {name: Host(name) for name in ALL}
        self.said: list[tuple[NodeId, NodeId, Any]] = []
        """Every message between nodes that left, delivered or not: from whom, to whom, what."""
        self.channels: dict[type, set[int]] = {}
        """On which ports each kind of message was seen."""
        self._queue: list[tuple[int, int, NodeId, int, Event | None]] = []
        self._sent = 0
        self._cuts: set[tuple[NodeId, NodeId]] = set()
        self._losses: list[Callable[[NodeId, NodeId, Any], bool]] = []
        self._last_client = 0
        self._digests: dict[int, bytes] = {}
        self._runs: set[Lease] = set()
        for name in ALL:
            self.start(name)

    def __getitem__(self, name: NodeId) -> Host:
        return self.hosts[name]

    @property
    def leader(self) -> Host:
        """Whoever is in office; exactly one is."""
        [leader] = [host for host in self.hosts.values() if host.is_up and host.node.leading.dispatcher.in_office]
        return leader

    # --- life and death ---

    def start(self, name: NodeId) -> Host:
        """A process starts on what its disk holds; its links come up."""
        host = self.hosts[name]
        assert not host.is_up
        host.incarnation += 1
        fields: dict[str, Any] = {"slots": self.slots, **self.apart.get(name, {})}
        config = NodeConfig(
            node_id=name,
            cluster="c",
            incarnation=host.incarnation,
            address=f"{name}:7000",
            voters=VOTERS,
            pid=host.incarnation,
            epoch_ms=self.epoch_ms,
            raft=RaftConfig(**{"election_timeout_ms": TIMEOUT_MS[name], **self.raft}),
            gossip=self.gossip,
            dispatch=self.dispatch,
            **fields,
        )
        rng = Random(f"{name}/{host.incarnation}")
        host.boot(Node(config, host.disk.recovered(), rng, self.now_ms))
        for other in ALL:
            if other != name and self.hosts[other].is_up:
                self.link_up(name, other)
        if self.capabilities:
            self.feed(name, AgentsReady(self.capabilities))
        return host

    def kill(self, name: NodeId, *, silent: bool = False) -> None:
        """SIGKILL: memory and unsynced writes are gone. Its links break, unless it is the host that went."""
        host = self.hosts[name]
        host.is_up = False
        host.is_disk_stuck = host.are_reads_stuck = False
        host.disk.unsynced = []
        for other in ALL:
            if not silent and self.hosts[other].is_up:
                self.feed(other, LinkDown(name))

    def pause(self, name: NodeId) -> None:
        """SIGSTOP: what comes waits to be read, and no timer is seen."""
        self.hosts[name].is_paused = True

    def resume(self, name: NodeId, *, timers_first: bool = False) -> None:
        host = self.hosts[name]
        host.is_paused = False
        if timers_first:
            self.feed(name, DeadlineReached())
        inbox, host.inbox = host.inbox, []
        for event in inbox:
            self.feed(name, event, ends_turn=False)
        self.feed(name, DeadlineReached())

    # --- the wire ---

    def link_up(self, one: NodeId, other: NodeId) -> None:
        self.feed(one, LinkUp(other, self.hosts[other].incarnation))
        self.feed(other, LinkUp(one, self.hosts[one].incarnation))

    def link_down(self, one: NodeId, other: NodeId) -> None:
        self.feed(one, LinkDown(other))
        self.feed(other, LinkDown(one))

    def cut(self, name: NodeId, *others: NodeId) -> None:
        """Nothing passes between `name` and `others` (all, if none are named). Nobody is told of it."""
        for other in others or ALL:
            self._cuts |= {(name, other), (other, name)}

    def lose(self, *kinds: type, to: NodeId | None = None, times: int = 1_000_000) -> None:
        """The next `times` messages of these kinds (to that node) are lost."""
        left = [times]

        def is_lost(sender: NodeId, receiver: NodeId, message: Any) -> bool:
            if left[0] and isinstance(message, kinds) and to in (None, receiver):
                left[0] -= 1
                return True
            return False

        self._losses.append(is_lost)

    def heal(self) -> None:
        self._cuts.clear()
        self._losses.clear()

    def tell(self, to: NodeId, sender: NodeId, message: Any) -> None:
        """A message arrives out of the blue, late or doubled."""
        self.feed(to, PeerMessage(sender, encode(message)))

    def messages(self, kind: type[Said], *, sender: NodeId | None = None, to: NodeId | None = None) -> list[Said]:
        """All messages of a kind that have left so far."""
        return [
            message
            for source, target, message in self.said
            if isinstance(message, kind) and sender in (None, source) and to in (None, target)
        ]

    # --- clients and user code ---

    def client(self, name: NodeId, *, number: int = 0) -> Client:
        """A client of a node; with `number`, under that of an earlier one, as after a restart of the node."""
        self._last_client += 1
        client = Client(self, name, number or self._last_client)
        self.hosts[name].clients[client.number] = client
        return client

    def begins(self, name: NodeId, task: str, token: int) -> None:
        """User code of an attempt begins to run."""
        self.feed(name, AttemptsStarted([lease(task, token)]))

    def ends(self, name: NodeId, task: str, token: int, *, error: str = "", final: bool = False) -> None:
        """User code of an attempt ends: with the task's name as its result, or with an error."""
        outcome = AttemptOutcome(TaskId(task), FencingToken(token), encode(task), error, "Traceback", final)
        self.feed(name, AttemptsEnded([outcome]))

    def saves(self, name: NodeId, task: str, token: int, sequence: int, state: bytes) -> None:
        """User code wants a checkpoint."""
        self.feed(name, CheckpointOffered(TaskId(task), FencingToken(token), sequence, state))

    # --- time ---

    def run(self, for_ms: int) -> None:
        """Let this much time pass, from event to event."""
        until_ms = self.now_ms + for_ms
        idle = 0
        while True:
            due = [(host.node.next_deadline_ms(), host.name) for host in self.hosts.values() if self._is_awake(host)]
            deadline_ms, name = min(due, default=(until_ms + 1, ANA))
            coming_ms = self._queue[0][0] if self._queue else until_ms + 1
            next_ms = max(self.now_ms, min(deadline_ms, coming_ms))
            if next_ms > until_ms:
                break
            idle = idle + 1 if next_ms == self.now_ms else 0
            assert idle < 10_000, "the nodes talk without end"
            self.now_ms = next_ms
            if coming_ms <= deadline_ms:
                self._arrive(*heappop(self._queue)[2:])
            else:
                self.feed(name, DeadlineReached())
        self.now_ms = until_ms

    @staticmethod
    def _is_awake(host: Host) -> bool:
        return host.is_up and not host.is_paused

    def sync(self, name: NodeId) -> None:
        """The disk catches up."""
        host = self.hosts[name]
        for event in host.disk.sync():
            if isinstance(event, Durable):
                host.durable = event.token
                for send in [send for send in host.held if send.after <= host.durable]:
                    self._send(name, send)
                host.held = [send for send in host.held if send.after > host.durable]
            self.feed(name, event, ends_turn=False)
        self.feed(name, TurnEnded(), ends_turn=False)

    def feed(self, name: NodeId, event: Event, *, ends_turn: bool = True) -> None:
        """Hand in one event, perform what is asked, and end the turn."""
        host = self.hosts[name]
        assert host.is_up
        self.events += 1
        if host.is_paused:
            host.inbox.append(event)
            return
        self._perform(host, host.node.handle(event, self.now_ms))
        if ends_turn:
            self._perform(host, host.node.handle(TurnEnded(), self.now_ms))
        ledger = host.node.ledger
        digest = self._digests.setdefault(ledger.applied_index, ledger.digest)
        assert digest == ledger.digest, f"{name} has another table than others at entry {ledger.applied_index}"

    def _arrive(self, name: NodeId, incarnation: int, event: Event | None) -> None:
        """None stands for the end of a sync. What was meant for an earlier process is not heard."""
        host = self.hosts[name]
        if not host.is_up or host.incarnation != incarnation:
            return
        if event is not None:
            self.feed(name, event)
        elif not host.is_disk_stuck:
            self.sync(name)

    def _post(self, name: NodeId, event: Event | None) -> None:
        """In 1 ms."""
        self._sent += 1
        heappush(self._queue, (self.now_ms + 1, self._sent, name, self.hosts[name].incarnation, event))

    # --- effects ---

    def _perform(self, host: Host, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send() if effect.after > host.durable:
                    host.held.append(effect)
                case Send():
                    self._send(host.name, effect)
                case Publish():
                    self._publish(host.name, effect)
                case Reply():
                    if effect.client in host.clients:
                        host.clients[effect.client].heard.append(decode_reply(effect.data))
                case Persist() | TrimLog() | WriteLedger() | StageSnapshot() | InstallSnapshot():
                    host.performed.append(effect)
                    host.disk.unsynced.append(effect)
                    self._post(host.name, None)
                case _:
                    host.performed.append(effect)
                    self._perform_rare(host, effect)

    def _perform_rare(self, host: Host, effect: Effect) -> None:
        match effect:
            case StartAttempts():
                for order in effect.orders:
                    assert (order.task_id, order.token) not in self._runs, f"{order} runs a second time"
                    self._runs.add((order.task_id, order.token))
                host.started += effect.orders
            case StopAttempts():
                host.stopped += effect.leases
            case CheckpointKept():
                host.kept.append(effect)
            case Notice():
                host.notices.append(effect)
            case Admit():
                host.admits.append(effect)
            case Retire():
                host.retired.append(effect)
            case CloseSnapshot():
                host.snapshots.pop(effect.transfer, None)
            case LoadRows() | LoadHistory() | OpenSnapshot() | ReadSnapshot():
                if not host.are_reads_stuck:
                    self._post(host.name, self._read(host, effect))
            case _:
                raise AssertionError(f"no such effect: {effect}")

    def _read(self, host: Host, effect: LoadRows | LoadHistory | OpenSnapshot | ReadSnapshot) -> Event:
        match effect:
            case LoadRows():
                return host.disk.load_rows(effect)
            case LoadHistory():
                return host.disk.load_history(effect)
            case OpenSnapshot():
                table = host.disk.table.copy()
                if table.mark is None:
                    return SnapshotRead(effect.transfer, [], [], GONE)
                host.snapshots[effect.transfer] = table
                return SnapshotOpened(effect.transfer, table.mark)
            case ReadSnapshot():
                snapshot = host.snapshots.get(effect.transfer)
                if snapshot is None:
                    return SnapshotRead(effect.transfer, [], [], GONE)
                return snapshot.chunk(effect, self.chunk_rows)

    def _send(self, sender: NodeId, send: Send) -> None:
        assert send.to != sender, "a node does not write to itself"
        message = decode_peer(send.data)
        self.said.append((sender, send.to, message))
        self.channels.setdefault(type(message), set()).add(send.channel)
        is_lost = any(loss(sender, send.to, message) for loss in self._losses)
        is_cut = (sender, send.to) in self._cuts or send.to not in self.hosts
        if not is_lost and not is_cut and self.hosts[send.to].is_up:
            self._post(send.to, PeerMessage(sender, send.data))

    def _publish(self, sender: NodeId, publish: Publish) -> None:
        for name, host in self.hosts.items():
            if name != sender and host.is_up and (sender, name) not in self._cuts:
                self._post(name, GossipReceived(publish.data))


def settled(**settings: Any) -> Trio:
    """The three of them after 2 s, at 3,000 ms: ana leads, all are admitted and have said what they run.

    The first task submitted is granted at entry 4, to ana; the second one at entry 5 to ben, and so on in turns.
    """
    trio = Trio(**settings)
    trio.run(2_000)
    leading = trio[ANA].node.leading
    assert leading.dispatcher.in_office
    assert leading.dispatcher.unreported() == []
    trio.said.clear()
    return trio
