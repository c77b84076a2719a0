"""One node of a LocalMesh with the world it lives in: its place on the loop, its disk, its user code; and the wires.

The third shell around `mesh.node.Node`, after the process and the simulator, and the plainest: what is sent arrives in
a later turn of the loop, what is written is on disk at once, and nothing is lost but with a node that is killed.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from typing import Any

from mesh import effects
from mesh.app import Mesh
from mesh.client import MeshClient
from mesh.client.links import LinkEvents
from mesh.config import NodeConfig
from mesh.effects import Send
from mesh.events import (
    AgentsReady,
    AttemptsEnded,
    ClientGone,
    ClientMessage,
    DeadlineReached,
    Durable,
    Event,
    GossipReceived,
    HistoryLoaded,
    LedgerWritten,
    LinkDown,
    LinkUp,
    PeerMessage,
    RowsLoaded,
    SnapshotInstalled,
    SnapshotOpened,
    SnapshotRead,
    SnapshotStaged,
    TurnEnded,
)
from mesh.ids import ClientId, NodeId
from mesh.messages import AttemptOutcome, Lease
from mesh.node import Node
from mesh.sim.disk import Disk, LedgerFile
from mesh.testing.attempts import Attempts, versions_of
from mesh.testing.virtual_time import Outside, VirtualTimeLoop

CHUNK_ROWS = 256
"""Rows of a snapshot read at once."""

INBOX_MAX = 100_000
"""What waits for a node that is paused; the rest is dropped in silence, as sockets do it."""

_FROM_SOCKETS = frozenset({PeerMessage, ClientMessage, GossipReceived})

_TURN_ENDED = TurnEnded()
_DEADLINE = DeadlineReached()


class Network:
    """The wires between the machines of one mesh, and from clients to them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, dice: Random, wall_s: Callable[[], float]) -> None:
        """`dice` are rolled for whatever must differ; `wall_s` is the time of day, in seconds since the epoch."""
        self.loop = loop
        self.dice = dice
        self.wall_s = wall_s
        self.outside = loop.outside if isinstance(loop, VirtualTimeLoop) else Outside()
        self.machines: dict[str, Machine] = {}
        self.links: list[MemoryLink] = []
        self.client: MeshClient | None = None
        """What child tasks are submitted with."""
        self.broken: list[Exception] = []
        """Why machines stopped that nobody killed: broken invariants."""
        self.outcomes: dict[Lease, AttemptOutcome] | None = None
        """What every attempt came to where it ran, if somebody wants to compare."""
        self._islands: dict[str, int] = {}
        """Which part of a divided network a node is in; empty while all is one."""
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def send(self, source: NodeId, send: Send) -> None:
        machine = self.machines.get(send.to)
        if machine is not None and not self.is_cut(source, send.to):
            self.loop.call_soon(machine.deliver, PeerMessage(source, send.data))

    def publish(self, source: NodeId, data: bytes) -> None:
        for machine in self.machines.values():
            if machine.node_id != source and not self.is_cut(source, machine.node_id):
                self.loop.call_soon(machine.deliver, GossipReceived(data))

    def started(self) -> None:
        """A machine has come up: whoever knows it makes a link to it."""
        for machine in self.machines.values():
            machine.dial()
        for link in list(self.links):
            link.dial()

    def stopped(self, stopped: "Machine", *, silent: bool) -> None:
        """A machine is gone: its links break, unless it fell silent with its cables in place."""
        for machine in self.machines.values():
            if not silent and machine.links.pop(stopped.node_id, None) is not None:
                self.loop.call_soon(machine.deliver, LinkDown(stopped.node_id))
        for link in list(self.links):
            link.machine_stopped(stopped)
        self.turned()

    def is_cut(self, one: str, other: str) -> bool:
        """Whether there is no way between two nodes."""
        return bool(self._islands) and self._islands.get(one, -1) != self._islands.get(other, -1)

    def divide(self, groups: Iterable[Iterable[str]]) -> None:
        """Only nodes of one group reach each other from here on; those in none are one more. No group: all do."""
        self._islands = {node_id: number for number, group in enumerate(groups) for node_id in group}
        for machine in self.machines.values():
            for peer in [peer for peer in machine.links if self.is_cut(machine.node_id, peer)]:
                del machine.links[peer]
                self.loop.call_soon(machine.deliver, LinkDown(peer))
        self.started()

    def child_client(self) -> MeshClient:
        assert self.client is not None, "user code runs only once the mesh has started"
        return self.client

    # --- waiting ---

    def wait(self, condition: Callable[[], bool]) -> asyncio.Future[None]:
        """A future that is done once the condition holds at the end of some machine's turn, or now."""
        future: asyncio.Future[None] = self.loop.create_future()
        self._waiters.append((condition, future))
        self.turned()
        return future

    def turned(self) -> None:
        """Something may have changed: release those who waited for it."""
        still = []
        for condition, future in self._waiters:
            if future.done():
                continue
            try:
                if condition():
                    future.set_result(None)
                else:
                    still.append((condition, future))
            except Exception as error:  # Theirs, whoever asks; the machine that turned has nothing to do with it.
                future.set_exception(error)
        self._waiters = still


class MemoryLink:
    """A client's connection to the node at one address; redials by itself until closed. A mesh.client.links.Link."""

    def __init__(self, network: Network, address: str, events: LinkEvents) -> None:
        self._network = network
        self._address = address
        self._events = events
        self._machine: Machine | None = None
        self._client = ClientId(0)
        network.links.append(self)
        network.loop.call_soon(self.dial)

    def dial(self) -> None:
        if self._machine is not None or self not in self._network.links:
            return
        for machine in self._network.machines.values():
            if machine.is_up and not machine.is_paused and machine.config.address == self._address:
                self._machine = machine
                self._client = machine.accept(self._events.on_message)
                self._events.on_up(machine.node_id, machine.incarnation)
                return

    def send(self, data: bytes) -> bool:
        if self._machine is None:
            return False
        self._network.loop.call_soon(self._machine.deliver, ClientMessage(self._client, data))
        return True

    def close(self) -> None:
        if self in self._network.links:
            self._network.links.remove(self)
        if self._machine is not None:
            machine, self._machine = self._machine, None
            machine.clients.pop(self._client, None)
            machine.deliver(ClientGone(self._client))

    def machine_stopped(self, machine: "Machine") -> None:
        if self._machine is machine:
            self._machine = None
            self._events.on_down("its node is gone")


class Machine:
    """A host by name. What is on its disk outlives its node; `node` can still be read when it no longer runs."""

    def __init__(self, config: NodeConfig, app: Mesh, network: Network) -> None:
        self.node_id = NodeId(config.node_id)
        self.config = config
        self.app = app
        self.disk = Disk(config.node_id)
        self.incarnation = 0
        self.is_up = False
        self.is_paused = False
        self.links: dict[NodeId, int] = {}
        """Peers we have a link to, and their incarnation."""
        self.clients: dict[ClientId, Callable[[bytes], None]] = {}
        self.node: Node
        self._network = network
        self._client_count = 0

    # --- life ---

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._network.loop

    def plug_into(self, network: Network) -> None:
        """Other wires: the mesh goes on elsewhere."""
        assert not self.is_up, "wires are changed while the power is off"
        self._network = network

    def start(self) -> None:
        """A node starts from what is on the disk, under the next incarnation."""
        assert not self.is_up, "one node per machine"
        self.incarnation += 1
        self._loop = self._network.loop
        self._held: deque[Send] = deque()
        self._inbox: deque[Event] = deque()
        self._durable = 0
        self._snapshots: dict[int, LedgerFile] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._is_turn_due = False
        self._known = 0
        self._tell = self._ear_of(self.incarnation)
        self._attempts = Attempts(
            self.node_id,
            self.app,
            self.config.slots,
            self._loop,
            self._tell,
            self._network.child_client,
            self._network.outside,
        )
        self._deeds = self._all_deeds()
        epoch_ms = int(self._network.wall_s() * 1_000) - self.now_ms()
        config = replace(self.config, incarnation=self.incarnation, epoch_ms=epoch_ms, pid=os.getpid())
        self.node = Node(config, self.disk.recover(), Random(self._network.dice.getrandbits(64)), self.now_ms())
        self.is_up = True
        self._network.started()
        self.deliver(AgentsReady(self.app.capabilities, versions_of(self.app)))

    def stop(self, *, silent: bool = False) -> None:
        """The node is gone, now: nothing more is read, sent or run."""
        if not self.is_up:
            return
        self.is_up = self.is_paused = False
        self.links.clear()
        self.clients.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._attempts.end()
        if not self._loop.is_closed():
            self._network.stopped(self, silent=silent)

    def pause(self) -> None:
        """As SIGSTOP does it: nothing is read and no timer seen. User code and the disk go on; links stay up."""
        self.is_paused, self._is_turn_due = self.is_up, False

    def resume(self) -> None:
        """The node finds everything that came meanwhile, and that time has jumped."""
        if not self.is_paused:
            return
        self.is_paused = False
        inbox, self._inbox = self._inbox, deque()
        for event in inbox:
            self.deliver(event)
        if self.is_up:
            self._turn_soon()
            self._network.started()

    def accept(self, receive: Callable[[bytes], None]) -> ClientId:
        """A client has dialled this node."""
        self._client_count += 1
        client = ClientId(self._client_count)
        self.clients[client] = receive
        return client

    def dial(self) -> None:
        """Make links to the members we know and have none to."""
        if not self.is_up or self.is_paused:
            return
        members = self.node.detector.members()
        self._known = len(members)
        for member in members:
            peer = self._network.machines.get(member.node_id)
            if peer is None or peer is self or not peer.is_up or self.links.get(peer.node_id) == peer.incarnation:
                continue
            if peer.is_paused or self._network.is_cut(self.node_id, peer.node_id):
                continue
            self.links[peer.node_id] = peer.incarnation
            self._loop.call_soon(self.deliver, LinkUp(peer.node_id, peer.incarnation))

    # --- the one circle: event, effects, deeds ---

    def deliver(self, event: Event) -> None:
        if not self.is_up:
            return
        if self.is_paused:
            if len(self._inbox) < INBOX_MAX or type(event) not in _FROM_SOCKETS:
                self._inbox.append(event)
            return
        if type(event) is Durable:
            self._durable = event.token
            while self._held and self._held[0].after <= self._durable:
                self._network.send(self.node_id, self._held.popleft())
        try:
            for effect in self.node.handle(event, self.now_ms()):
                self._deeds[type(effect)](effect)
        except Exception as error:
            # Going on with half an event handled would be guessing.
            self._network.broken.append(error)
            self.stop()
            raise
        self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._is_turn_due:
            self._is_turn_due = True
            self._loop.call_soon(self._end_turn)

    def _ear_of(self, incarnation: int) -> Callable[[Event], None]:
        """What hears the disk and the user code of this very node: words of an earlier one's are not for the next."""

        def hear(event: Event) -> None:
            if incarnation == self.incarnation:
                if type(event) is AttemptsEnded and self._network.outcomes is not None:
                    self._network.outcomes.update(((end.task_id, end.token), end) for end in event.outcomes)
                self.deliver(event)

        return hear

    def _end_turn(self) -> None:
        if not self.is_up or not self._is_turn_due:
            return  # The turn of a node that is gone, or paused meanwhile.
        self.deliver(_TURN_ENDED)
        self._is_turn_due = False
        self._arm()
        if len(self.node.detector.members()) != self._known:
            self.dial()
        self._network.turned()

    def _arm(self) -> None:
        """Keep one timer, for the node's next deadline. A later deadline lets it come early and look again."""
        deadline_ms = self.node.next_deadline_ms()
        if self._timer is not None:
            if self._timer_ms <= deadline_ms:
                return
            self._timer.cancel()
        self._timer_ms = deadline_ms
        self._timer = self._loop.call_at((deadline_ms + 0.5) / 1_000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self.is_up or self.is_paused:
            return
        if self.now_ms() >= self.node.next_deadline_ms():
            self.deliver(_DEADLINE)
        else:
            self._arm()

    def now_ms(self) -> int:
        return int(self._loop.time() * 1_000)

    # --- deeds ---

    def _all_deeds(self) -> dict[type, Callable[[Any], None]]:
        return {
            effects.Send: self._send,
            effects.Reply: self._reply,
            effects.Publish: lambda effect: self._network.publish(self.node_id, effect.data),
            effects.Admit: lambda effect: None,  # Here everybody reaches everybody, and no disk is ever lost.
            effects.Retire: self._retire,
            effects.Notice: lambda effect: None,  # What it tells is counted, and in the status.
            effects.StartAttempts: self._attempts.start,
            effects.StopAttempts: self._attempts.stop,
            effects.CheckpointKept: self._attempts.kept,
            effects.Persist: lambda effect: self._write(effect, Durable(effect.token)),
            effects.TrimLog: lambda effect: self._write(effect, None),
            effects.StageSnapshot: lambda effect: self._write(effect, SnapshotStaged(effect.transfer)),
            effects.WriteLedger: lambda effect: self._write(effect, LedgerWritten(effect.write.mark.applied_index)),
            effects.InstallSnapshot: self._install,
            effects.LoadRows: self._load_rows,
            effects.LoadHistory: self._load_history,
            effects.OpenSnapshot: self._open_snapshot,
            effects.ReadSnapshot: self._read_snapshot,
            effects.CloseSnapshot: self._close_snapshot,
        }

    def _retire(self, effect: effects.Retire) -> None:
        self._loop.call_soon(self.stop)

    def _later(self, event: Event) -> None:
        self._loop.call_soon(self._tell, event)

    def _send(self, send: Send) -> None:
        if send.after > self._durable:
            self._held.append(send)
        else:
            self._network.send(self.node_id, send)

    def _reply(self, reply: effects.Reply) -> None:
        receive = self.clients.get(reply.client)
        if receive is not None:
            self._loop.call_soon(receive, reply.data)

    def _write(self, write: Any, event: Event | None) -> None:
        self.disk.perform(write)
        if event is not None:
            self._later(event)

    def _install(self, install: effects.InstallSnapshot) -> None:
        self.disk.perform(install)
        self._later(SnapshotInstalled(install.transfer, self.disk.recover()))

    def _load_rows(self, load: effects.LoadRows) -> None:
        rows = self.disk.ledger.rows
        if load.task_ids:
            named = [rows[task_id] for task_id in load.task_ids if task_id in rows]
            self._later(RowsLoaded(load.read_id, [row for row in named if row.finished], ""))
            return
        page = [
            rows[task_id]
            for task_id in sorted(rows)
            if task_id > load.after
            and rows[task_id].finished
            and (not load.states or rows[task_id].state in load.states)
            and load.capability in ("", rows[task_id].capability)
        ]
        more = page[load.limit - 1].task_id if 0 < load.limit < len(page) else ""
        self._later(RowsLoaded(load.read_id, page[: load.limit], more))

    def _load_history(self, load: effects.LoadHistory) -> None:
        batches = [batch for batch in self.disk.ledger.events if batch[0] > load.after]
        self._later(HistoryLoaded(load.read_id, batches[: load.limit]))

    def _open_snapshot(self, wanted: effects.OpenSnapshot) -> None:
        copy = self.disk.ledger.copy()
        if copy.mark is not None:
            self._snapshots[wanted.transfer] = copy
            self._later(SnapshotOpened(wanted.transfer, copy.mark))

    def _read_snapshot(self, wanted: effects.ReadSnapshot) -> None:
        copy = self._snapshots.get(wanted.transfer)
        if copy is not None:
            rows, events, more = copy.page(wanted, CHUNK_ROWS)
            self._later(SnapshotRead(wanted.transfer, rows, events, more))

    def _close_snapshot(self, wanted: effects.CloseSnapshot) -> None:
        self._snapshots.pop(wanted.transfer, None)
