"""LocalMesh: nodes started, joined, killed and restarted in one process; work submitted to them and looked at."""

import asyncio
from collections.abc import Callable, Iterable
from random import Random, SystemRandom
from time import time
from types import TracebackType
from typing import Any, Self
from weakref import finalize

import msgspec

from mesh import documents
from mesh.app import Mesh
from mesh.client import Handle, MeshClient
from mesh.client.courier import Courier
from mesh.client.links import Link, LinkEvents
from mesh.config import DispatchConfig, GossipConfig, MembershipConfig, NodeConfig, RaftConfig
from mesh.dispatch.placement import Candidate
from mesh.durable import TaskRow
from mesh.events import Leave, MachineMeasured
from mesh.ids import FencingToken, TaskId
from mesh.ledger.task import Happening, Task
from mesh.messages import Action, AttemptOutcome, Question, TaskSpec
from mesh.node import Node
from mesh.options import Labels
from mesh.testing.machine import Machine, MemoryLink, Network
from mesh.wire.codec import decode_happenings, decode_task

START_TIMEOUT_S = 10.0
SUBMIT_TIMEOUT_S = 30.0
LEAVE_WITHIN_S = 28.0

NEVER_MS = 1 << 40

_DOCUMENTS: dict[Question, type[msgspec.Struct]] = {
    Question.STATUS: documents.Status,
    Question.TASK: documents.Task,
    Question.TASKS: documents.TaskPage,
    Question.DEAD_LETTERS: documents.DeadLetterPage,
    Question.EVENTS: documents.EventPage,
    Question.EXPLAIN: documents.Explanation,
    Question.RAFT: documents.RaftStatus,
}


class LocalMesh:
    """A mesh that lives on the running event loop.

    Use it in an `async with`, or call `start` and `close`. Nothing runs before. Started again on another loop, after
    the first is gone, its nodes go on from their disks, as after a power failure. One that is dropped without `close`
    stops when it is collected.

    Attributes:
        client: the whole client (`mesh.connect` gives the same kind), once started.
    """

    client: MeshClient

    def __init__(
        self,
        app: Mesh | None = None,
        *,
        voters: int | tuple[str, ...] = 1,
        slots: int = 256,
        heartbeat_interval_ms: int = 1_000,
        failure_threshold: int = 3,
        dispatch: DispatchConfig | None = None,
        raft: RaftConfig | None = None,
        dice: Random | None = None,
        wall_s: Callable[[], float] = time,
    ) -> None:
        """
        Args:
            app: what the founding nodes offer; nothing, if not given.
            voters: how many nodes found the mesh (`n1`, `n2`, ...), or their ids.
            slots: attempts each of them runs at once.
            heartbeat_interval_ms, failure_threshold: as everywhere, see GossipConfig. Raises ValueError.
            dispatch: the queue's bounds, where a test is about them.
            raft: how the log is replicated, likewise.
            dice: rolled by nodes and clients; the system's own, if not given.
            wall_s: the time of day, in seconds since the epoch.
        """
        names = tuple(f"n{number + 1}" for number in range(voters)) if isinstance(voters, int) else voters
        if not names:
            raise ValueError("a mesh needs one voter at least")
        self._voters = tuple((name, f"{name}:0") for name in sorted(names))
        self._gossip = GossipConfig(heartbeat_interval_ms=heartbeat_interval_ms, failure_threshold=failure_threshold)
        self._dispatch = dispatch or DispatchConfig()
        self._raft = raft or RaftConfig()
        self._dice = dice or SystemRandom()
        self._wall_s = wall_s
        self._machines: dict[str, Machine] = {}
        self._network: Network | None = None
        self._courier: Courier | None = None
        self._starting: asyncio.Task[None] | None = None
        self._decoded: dict[TaskId, tuple[TaskRow, Task]] = {}
        """Finished tasks as read from a disk: a row that was finished never changes."""
        self._app = app or Mesh("nothing")
        self._slots = slots

    # --- life ---

    async def start(self) -> None:
        """Serve on the running loop; returns once a leader is in office. Harmless if it does already.

        Raises MeshUnavailable if no node answers, TimeoutError if nobody comes to lead.
        """
        loop = asyncio.get_running_loop()
        starting = self._starting
        failed = starting is not None and starting.done() and (starting.cancelled() or starting.exception() is not None)
        if self._network is None or self._network.loop is not loop or self._courier is None:
            starting = self._starting = None
            self._power_on(loop)
        if starting is None or failed:
            starting = self._starting = loop.create_task(self._open(), name="mesh.testing starts")
        await asyncio.shield(starting)

    async def close(self) -> None:
        """Stop everything. What was known can still be looked at. Raises whatever broke a node of its own accord."""
        network = self._network
        if network is None or self._courier is None:
            return
        self._courier.close()
        self._courier = None
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None
        _stop(self._machines)
        network.turned()
        if network.broken:
            raise network.broken[0]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def is_open(self) -> bool:
        return self._courier is not None

    # --- for those who watch it from outside ---

    @property
    def courier(self) -> Courier:
        """What its client sends by."""
        assert self._courier is not None, "the mesh has started"
        return self._courier

    def watch(self, client: MeshClient) -> None:
        """From here on, children of tasks are submitted with this client, and what attempts come to is remembered."""
        assert self._network is not None, "the mesh has started"
        self._network.client = client
        self._network.outcomes = {}

    def outcome(self, task_id: TaskId, token: FencingToken) -> AttemptOutcome | None:
        """What an attempt came to where it ran, if it ended while the mesh was watched."""
        outcomes = None if self._network is None else self._network.outcomes
        return None if outcomes is None else outcomes.get((task_id, token))

    @property
    def broken(self) -> list[Exception]:
        """Why nodes stopped that nobody killed."""
        return [] if self._network is None else self._network.broken

    def _power_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Every machine starts, from its disk if it has been on before."""
        before = self._network
        if before is not None and before.loop is not loop and before.loop.is_running():
            raise RuntimeError("this mesh lives on another event loop, which is still running")
        _stop(self._machines)
        network = self._network = Network(loop, self._dice, self._wall_s)
        if not self._machines:
            for name, address in self._voters:
                self._machines[name] = Machine(self._config(name, address, self._slots), self._app, network)
            finalize(self, _stop_from_anywhere, self._machines).atexit = False
        network.machines = self._machines
        for machine in self._machines.values():
            machine.plug_into(network)
        for machine in self._machines.values():
            machine.start()

        def dial(address: str, events: LinkEvents) -> Link:
            return MemoryLink(network, address, events)

        addresses = [address for _, address in self._voters]
        self._courier = Courier(addresses, dial, self._dice, wall_s=self._wall_s)
        network.client = self.client = MeshClient(self._courier)

    async def _open(self) -> None:
        assert self._courier is not None, "power comes first"
        await self._courier.open(START_TIMEOUT_S)
        await self.until(lambda: self.leader is not None, timeout=START_TIMEOUT_S)

    def _config(self, node_id: str, address: str, slots: int, kind: str = "general", labels: Labels = ()) -> NodeConfig:
        return NodeConfig(
            node_id=node_id,
            cluster="local",
            incarnation=0,
            address=address,
            voters=self._voters,
            slots=slots,
            labels=labels,
            kind=kind,
            gossip=self._gossip,
            raft=self._raft,
            dispatch=self._dispatch,
            membership=MembershipConfig(voters_wanted=max(1, len(self._voters)), replace_after_ms=NEVER_MS),
        )

    # --- nodes ---

    async def add_node(
        self,
        node_id: str,
        app: Mesh,
        *,
        slots: int = 256,
        address: str = "",
        kind: str = "general",
        labels: Labels = (),
    ) -> None:
        """A node joins: it gets the log, holds leases and gossips, and has no vote. Returns once it is granted tasks.

        `kind` and `labels` are what it says it is, see NodeConfig. One that is there under this id is started anew if
        it is down, or if it is to offer something else.
        Raises ValueError for a voter's id, TimeoutError if it is not taken in.
        """
        if any(node_id == name for name, _ in self._voters):
            raise ValueError(f"{node_id!r} is a founding node of this mesh")
        await self.start()
        assert self._network is not None and self._courier is not None, "the mesh has started"
        machine = self._machines.get(node_id)
        if machine is not None and machine.is_up:
            machine.stop()
        config = self._config(node_id, address or f"{node_id}:0", slots, kind, labels)
        if machine is None:
            machine = self._machines[node_id] = Machine(config, app, self._network)
        machine.app, machine.config = app, config
        machine.start()
        await self._courier.order(Action.ADD_LEARNER, f"{node_id}@{config.address}")
        interval_s = self._gossip.heartbeat_interval_ms / 1_000
        await self.until(lambda: self._takes_tasks(machine), timeout=START_TIMEOUT_S + 5 * interval_s)

    async def leave(self, node_id: str, *, within_s: float = LEAVE_WITHIN_S) -> None:
        """A node goes of its own accord, as a process does that is told to end: it takes no more tasks, finishes what
        it runs, gives back, charged to nobody, what takes longer than `within_s`, and ends. Raises KeyError.
        """
        machine = self._machines[node_id]
        machine.deliver(Leave(round(within_s * 1_000)))
        await self.until(lambda: not machine.is_up, timeout=within_s + START_TIMEOUT_S)

    def measure(self, node_id: str, *, cpu: float, memory: float) -> None:
        """Say how busy a node's machine is, as shares from 0 to 1; the others hear it with its next heartbeat. In one
        process nobody measures. Raises KeyError.
        """
        self._machines[node_id].deliver(MachineMeasured(round(cpu * 1_000), round(memory * 1_000)))

    def kill(self, node_id: str, *, silent: bool = False) -> None:
        """Stop a node dead, and what it runs; its disk stays. The others lose their links to it at once; or, `silent`,
        hear nothing any more and must find out. Raises KeyError.
        """
        self._machines[node_id].stop(silent=silent)

    def restart(self, node_id: str) -> None:
        """Start a killed node again, from its disk. Raises KeyError."""
        machine = self._machines[node_id]
        if not machine.is_up:
            machine.start()

    def pause(self, node_id: str) -> None:
        """Let a node handle nothing, as SIGSTOP does: messages queue up, its timers come late. Raises KeyError.

        The code it runs goes on, and so does its disk.
        """
        self._machines[node_id].pause()

    def resume(self, node_id: str) -> None:
        """Let a paused node go on. Raises KeyError."""
        self._machines[node_id].resume()

    def partition(self, *groups: Iterable[str]) -> None:
        """Divide the network: only nodes of one group reach each other. Nodes in no group are one more; clients reach
        all. Raises ValueError for what is no division.
        """
        assert self._network is not None, "start the mesh first"
        sides = [list(group) for group in groups]
        named = [node_id for side in sides for node_id in side]
        for node_id in named:
            if node_id not in self._machines:
                raise ValueError(f"there is no node {node_id!r}; there are {', '.join(self._machines)}")
            if named.count(node_id) > 1:
                raise ValueError(f"{node_id!r} is named twice: a node is on one side of a partition")
        self._network.divide(sides)

    def heal(self) -> None:
        """All nodes reach each other again."""
        self.partition()

    @property
    def node_ids(self) -> list[str]:
        return list(self._machines)

    def is_up(self, node_id: str) -> bool:
        machine = self._machines.get(node_id)
        return machine is not None and machine.is_up

    def offer(self, node_id: str) -> tuple[tuple[str, ...], int]:
        """The capabilities and slots a node was last started with. Raises KeyError."""
        machine = self._machines[node_id]
        return machine.app.capabilities, machine.config.slots

    def node(self, node_id: str) -> Node:
        """The node itself, to look at. Raises KeyError."""
        return self._machines[node_id].node

    @property
    def leader(self) -> Node | None:
        """The node in office, if there is one; of two, one of which has not heard of the other, the later."""
        running = [machine.node for machine in self._machines.values() if machine.is_up and not machine.is_paused]
        in_office = [node for node in running if node.leading.dispatcher.in_office]
        return max(in_office, key=lambda node: node.raft.term, default=None)

    def candidates(self) -> list[Candidate]:
        """The nodes that may be granted tasks, as the leader sees them; none without a leader."""
        leader = self.leader
        if leader is None:
            return []
        dispatcher = leader.leading.dispatcher
        dispatcher.refresh()
        return [candidate for candidate in dispatcher.candidates.values() if candidate.is_eligible]

    def _takes_tasks(self, machine: Machine) -> bool:
        leader = self.leader
        member = None if leader is None else leader.detector.member(machine.node_id)
        return (
            member is not None
            and member.incarnation == machine.incarnation
            and any(candidate.node_id == machine.node_id for candidate in self.candidates())
        )

    # --- work ---

    async def submit(self, capability: str, payload: Any = None, **options: Any) -> Handle:
        """Hand in a task; returns once a quorum holds it. Options and errors as of MeshClient.submit."""
        await self.start()
        return await self.client.submit(capability, payload, **options)

    async def submit_spec(self, spec: TaskSpec) -> Handle:
        """The same for a task that is made up already."""
        await self.start()
        assert self._courier is not None, "the mesh has started"
        return await self._courier.submit(spec, SUBMIT_TIMEOUT_S)

    async def result(self, task_id: str, timeout: float | None = None) -> Any:
        """What a task's handler returned. Waits and raises as Handle.result."""
        await self.start()
        return await self.client.handle(task_id).result(timeout)

    async def ask(self, question: Question, task_id: str = "") -> Any:
        """The document that answers a question, as a linearizable read. `client` has a method for each."""
        await self.start()
        assert self._courier is not None, "the mesh has started"
        return await self._courier.ask(_DOCUMENTS[question], question, task_id=task_id)

    async def until(self, condition: Callable[[], bool], *, timeout: float | None = 5.0) -> None:
        """Wait until `condition()` holds. It is looked at whenever a node has done something. Raises TimeoutError."""
        assert self._network is not None, "start the mesh first"
        async with asyncio.timeout(timeout):
            await self._network.wait(condition)

    # --- what the mesh holds, read where it is freshest ---

    @property
    def freshest(self) -> Node | None:
        """The leader; without one, the voter that has applied most. None if the mesh was never started."""
        nodes = [self._machines[name].node for name, _ in self._voters if name in self._machines]
        return self.leader or max(nodes, key=lambda node: node.ledger.applied_index, default=None)

    def find(self, task_id: str) -> Task | None:
        """A task as the ledger has it, while it lives and a little longer."""
        node = self.freshest
        return None if node is None else node.behind.find(TaskId(task_id))

    def look_up(self, task_id: str) -> Task | None:
        """A task, whether it lives or has finished long ago."""
        node, found = self.freshest, self.find(task_id)
        if node is None or found is not None:
            return found
        row = self._machines[node.node_id].disk.ledger.rows.get(TaskId(task_id))
        return None if row is None else decode_task(row.record)

    def happenings(self) -> list[Happening]:
        """Whatever has happened, in the order of the log."""
        node = self.freshest
        if node is None:
            return []
        stored = [decode_happenings(data) for _, data in self._machines[node.node_id].disk.ledger.events]
        return [one for batch in stored for one in batch] + [
            one for _, batch in node.behind.recent_events(0) for one in batch
        ]

    def live_tasks(self) -> list[Task]:
        """Tasks that have not finished, dead letters among them, in the order they were submitted in."""
        node = self.freshest
        return [] if node is None else sorted(node.ledger.tasks.values(), key=lambda task: task.order)

    def finished_tasks(self) -> list[Task]:
        """Tasks that have finished, in the order they did."""
        node = self.freshest
        if node is None:
            return []
        before, self._decoded = self._decoded, {}
        for row in self._machines[node.node_id].disk.ledger.rows.values():
            if row.finished:
                known = before.get(row.task_id)
                if known is None or known[0] is not row:
                    known = (row, decode_task(row.record))
                self._decoded[row.task_id] = known
        finished = {task_id: task for task_id, (_, task) in self._decoded.items()}
        finished.update((task.spec.task_id, task) for task in node.behind.recent())
        return sorted(finished.values(), key=lambda task: task.finished)

    def status(self) -> documents.Status | None:
        """The mesh on one page, as its freshest node sees it just now."""
        node = self.freshest
        if node is None:
            return None
        machine = self._machines[node.node_id]
        now_ms = machine.now_ms() if machine.is_up else node.now_ms
        return node.answers.status(now_ms, stale=True, counters=node.counters)


def _stop(machines: dict[str, Machine]) -> None:
    """Switch all of them off at once: nobody is left to notice."""
    for machine in machines.values():
        machine.stop(silent=True)


def _stop_from_anywhere(machines: dict[str, Machine]) -> None:
    """The mesh was collected: on whatever thread that was, its machines stop on their loop."""
    for machine in list(machines.values())[:1]:
        try:
            machine.loop.call_soon_threadsafe(_stop, machines)
        except RuntimeError:
            return  # The loop is closed, and so are they.
