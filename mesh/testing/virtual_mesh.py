"""`local`: a whole mesh under a virtual clock, used from an ordinary event loop.

    async with mesh.testing.local(app, nodes=5) as m:
        handle = await m.submit("code", {"prompt": "write sort"}, task_id="t1")
        await m.kill(m.leader)
        await m.advance("20s")
        assert await handle == "done"
        m.assert_invariants()

The mesh runs only while something of it is awaited, and its clock with it; what is not awaited (`m.status()`,
`m.leader`) is looked at as it stands. Coroutine handlers sleep by the mesh's clock; plain functions run on threads, in
real time, and the clock waits for them (virtual_time.py). The same test gives the same run.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from random import Random
from time import time
from types import TracebackType
from typing import Any, Final, Self, cast

import msgspec

from mesh.app import Mesh
from mesh.client import Handle, MeshClient
from mesh.client.courier import Courier
from mesh.config import DispatchConfig, RaftConfig
from mesh.documents import EventLine, Explanation, Status, Task
from mesh.errors import NotFound
from mesh.ledger.task import Task as LedgerTask
from mesh.node import Node
from mesh.node.answers import event_lines
from mesh.testing.bridge import Bridge
from mesh.testing.driving import Driver, cleared
from mesh.testing.durations import in_words, seconds
from mesh.testing.invariants import broken
from mesh.testing.local_mesh import LocalMesh
from mesh.testing.virtual_time import VirtualTimeLoop
from mesh.wire.codec import encode

FOUNDERS_MAX: Final = 5
"""More nodes than these join as learners."""

CALM: Final = RaftConfig(heartbeat_ms=300, election_timeout_ms=900)
"""Slower than in processes: here nothing is late, and each heartbeat costs a virtual hour some real time."""

ELECTION_PATIENCE_S: Final = 60.0


def local(
    app: Mesh | None = None,
    *,
    nodes: int = 5,
    seed: int = 0,
    slots: int = 256,
    heartbeat_interval_ms: int = 1_000,
    failure_threshold: int = 3,
    dispatch: DispatchConfig | None = None,
    raft: RaftConfig = CALM,
    starts_at: datetime | None = None,
    patience: float | str = "1h",
    real_patience_s: float = 30.0,
) -> "VirtualMesh":
    """A mesh for an `async with`.

    Args:
        app: what every node offers.
        nodes: `n1`, `n2`, ...; the first five found the mesh and have a vote.
        seed: of everything that is left to chance. Another seed, another order.
        slots: attempts each node runs at once.
        heartbeat_interval_ms, failure_threshold: as everywhere, see GossipConfig.
        dispatch, raft: numbers, where a test is about them. Elections take 0.9 to 1.8 s unless said otherwise.
        starts_at: the time of day when it starts, for schedules; now, if not given. From there on it is the mesh's.
        patience: how much of the mesh's time may pass while something is awaited, until Stuck is raised.
        real_patience_s: how much real time.

    Raises ValueError for numbers that cannot be.
    """
    return VirtualMesh(
        app,
        nodes=nodes,
        seed=seed,
        slots=slots,
        heartbeat_interval_ms=heartbeat_interval_ms,
        failure_threshold=failure_threshold,
        dispatch=dispatch,
        raft=raft,
        starts_at=starts_at,
        patience=patience,
        real_patience_s=real_patience_s,
    )


class VirtualMesh:
    """See the module; made by `local`, which says what the arguments are.

    Attributes:
        client: the whole client, as `mesh.connect` gives it, once started. Its handles are those of `submit`.
        loop, driver: where the mesh lives, and what runs it, once started.
    """

    client: MeshClient
    driver: Driver
    loop: VirtualTimeLoop

    def __init__(
        self,
        app: Mesh | None,
        *,
        nodes: int,
        seed: int,
        slots: int,
        heartbeat_interval_ms: int,
        failure_threshold: int,
        dispatch: DispatchConfig | None,
        raft: RaftConfig,
        starts_at: datetime | None,
        patience: float | str,
        real_patience_s: float,
    ) -> None:
        if nodes < 1:
            raise ValueError("a mesh needs one node at least")
        self._app = app or Mesh("nothing")
        self._slots = slots
        self._learners = [f"n{number}" for number in range(FOUNDERS_MAX + 1, nodes + 1)]
        self._patience_s = seconds(patience)
        self._real_patience_s = real_patience_s
        self._epoch_s = time() if starts_at is None else starts_at.timestamp()
        self._mesh = LocalMesh(
            self._app,
            voters=min(nodes, FOUNDERS_MAX),
            slots=slots,
            heartbeat_interval_ms=heartbeat_interval_ms,
            failure_threshold=failure_threshold,
            dispatch=dispatch,
            raft=raft,
            dice=Random(seed),
            wall_s=lambda: self._epoch_s + self.loop.time(),
        )
        self._bridge: Bridge | None = None
        self._began = False
        self._began_s = 0.0

    # --- life ---

    async def start(self) -> None:
        """Returns once a leader is in office and every node is granted tasks. `async with` does it."""
        self.power_on()
        await self.driver.call(self.opened(), "the mesh to start")

    async def close(self) -> None:
        """Stop everything; what is known can still be looked at. Raises whatever broke a node of its own accord."""
        if not self._began or self.loop.is_closed():
            return
        try:
            await self.driver.call(self.closed(), "handlers to end")
        finally:
            self.loop.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except Exception:
            if error is None:  # Whatever the test failed of says more.
                raise

    # --- work: all of it as MeshClient has it ---

    async def submit(self, capability: str, payload: Any = None, **options: Any) -> Handle:
        """Hand in a task; returns once a quorum holds it. Options and errors as of MeshClient.submit."""
        return await self.client.submit(capability, payload, **options)

    async def map(self, capability: str, payloads: Iterable[Any], **options: Any) -> list[Handle]:
        """Submit one task for each payload, in order."""
        return await self.client.map(capability, payloads, **options)

    async def result(self, task_id: str, timeout: float | None = None) -> Any:
        """What a task's handler returned. Waits, by the mesh's clock, and raises as Handle.result."""
        return await self.client.handle(task_id).result(timeout)

    # --- time ---

    @property
    def now(self) -> float:
        """Seconds of the mesh's time since it had started."""
        return round(self.loop.time() - self._began_s, 6)

    async def advance(self, duration: float | str) -> None:
        """Let time pass: seconds, or `"500ms"`, `"20s"`, `"2m"`, `"1h"`. Zero: do all that can be done just now."""
        length_s = seconds(duration)
        await self.driver.call(asyncio.sleep(length_s), f"{in_words(length_s)} to pass", takes_s=length_s)

    async def until(self, condition: Callable[[], bool], *, timeout: float | str | None = None) -> None:
        """Let time pass until `condition()` holds; it is looked at whenever a node has done something. Raises
        TimeoutError after `timeout` of the mesh's time.
        """
        limit_s = None if timeout is None else seconds(timeout)
        await self.driver.call(self._mesh.until(condition, timeout=limit_s), "a condition")

    async def elected(self) -> str:
        """The id of the leader; time passes until there is one. Raises TimeoutError."""
        await self.until(lambda: self.leader is not None, timeout=ELECTION_PATIENCE_S)
        assert self.leader is not None, "no time has passed since"
        return self.leader

    # --- what goes wrong ---

    async def kill(self, node_id: str | None, *, silent: bool = False) -> None:
        """Stop a node dead, and what it runs; its disk stays. The others lose their links to it at once; or, `silent`,
        hear nothing any more and must find out. Raises ValueError if there is no such node.
        """
        await self._do(self._mesh.kill, self._known(node_id), silent=silent)

    async def restart(self, node_id: str) -> None:
        """Start a killed node again, from its disk. Raises ValueError."""
        await self._do(self._mesh.restart, self._known(node_id))

    async def pause(self, node_id: str | None) -> None:
        """As SIGSTOP does it: the node reads nothing and sees no timer. The code it runs goes on. Raises ValueError."""
        await self._do(self._mesh.pause, self._known(node_id))

    async def resume(self, node_id: str) -> None:
        """A paused node goes on, and finds everything that came meanwhile. Raises ValueError."""
        await self._do(self._mesh.resume, self._known(node_id))

    async def partition(self, *groups: Iterable[str]) -> None:
        """Only nodes of one group reach each other; those in no group are one more. Clients reach all. ValueError."""
        await self._do(self._mesh.partition, *groups)

    async def heal(self) -> None:
        """All nodes reach each other again."""
        await self._do(self._mesh.heal)

    async def add_node(self, node_id: str, app: Mesh | None = None, *, slots: int | None = None) -> None:
        """One more node joins, with what all the others offer unless said otherwise. As LocalMesh.add_node."""
        joining = self._mesh.add_node(node_id, app or self._app, slots=self._slots if slots is None else slots)
        await self.driver.call(joining, f"{node_id} to join")

    async def _do(self, action: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        async def done() -> None:
            action(*args, **kwargs)

        await self.driver.call(done(), action.__name__)

    def _known(self, node_id: str | None) -> str:
        if node_id is None:
            raise ValueError("nobody leads just now: `await m.elected()` waits for somebody to")
        if node_id not in self._mesh.node_ids:
            raise ValueError(f"there is no node {node_id!r}; there are {', '.join(self._mesh.node_ids)}")
        return node_id

    # --- what the mesh holds, as it stands ---

    @property
    def leader(self) -> str | None:
        """Id of the node in office; None while there is none."""
        leader = self._mesh.leader
        return None if leader is None else leader.node_id

    @property
    def nodes(self) -> list[str]:
        """Ids of all nodes, those that are down too."""
        return self._mesh.node_ids

    def is_up(self, node_id: str) -> bool:
        return self._mesh.is_up(node_id)

    def node(self, node_id: str) -> Node:
        """The node itself, to look at. Raises KeyError."""
        return self._mesh.node(node_id)

    def status(self) -> Status:
        """The mesh on one page, as its freshest node sees it."""
        status = self._mesh.status()
        assert status is not None, "nodes have started"
        return status

    def task(self, task_id: str) -> Task:
        """One task with its history. Raises NotFound."""
        node, task = self._found(task_id)
        return msgspec.msgpack.decode(encode(node.answers.task(task, stale=True)), type=Task)

    def explain(self, task_id: str) -> Explanation:
        """Why a task is where it is. Raises NotFound."""
        node, task = self._found(task_id)
        return node.answers.explanation(task, node.leading.log_ms())

    def _found(self, task_id: str) -> tuple[Node, LedgerTask]:
        node, task = self._mesh.freshest, self._mesh.look_up(task_id)
        if node is None or task is None:
            raise NotFound(f"no task is called {task_id!r}")
        return node, task

    def events(self) -> list[EventLine]:
        """Everything that has happened, in the order of the log."""
        return event_lines(self._mesh.happenings())

    def assert_invariants(self) -> None:
        """No accepted task is lost, each has one outcome, the one its client was told; all tables agree; no result
        counts but that of the latest lease; no node broke of its own accord. Raises AssertionError that says what.
        """
        accepted = {} if self._bridge is None else self._bridge.accepted
        found = broken(self._mesh, accepted)
        if found:
            raise AssertionError("\n".join(found))

    def _why(self, task_id: str) -> str:
        """For whoever waits in vain."""
        down = [node_id for node_id in self._mesh.node_ids if not self._mesh.is_up(node_id)]
        said = [f"{self.leader} leads." if self.leader else "Nobody leads."]
        if down:
            said.append(f"Down: {', '.join(down)}.")
        if task_id:
            try:
                explanation = self.explain(task_id)
                said.insert(0, f"{task_id} is {explanation.state} ({explanation.reason}): {explanation.summary}")
            except NotFound:
                said.insert(0, f"The mesh knows no task {task_id!r}.")
        return " ".join(said)

    # --- below both faces, this and the blocking one ---

    def power_on(self) -> None:
        """The clock can go from here on: `closed` and `loop.close` are wanted in the end. Raises RuntimeError."""
        if self._began:
            raise RuntimeError("a virtual mesh is started once")
        self._began = True
        self.loop = VirtualTimeLoop()
        self.driver = Driver(
            self.loop, patience_s=self._patience_s, real_patience_s=self._real_patience_s, why=self._why
        )

    async def opened(self) -> None:
        """Start; on the mesh's loop."""
        mesh = self._mesh
        await mesh.start()
        self._bridge = Bridge(mesh.courier, self.driver)
        self.client = MeshClient(cast(Courier, self._bridge))
        mesh.watch(self.client)
        for node_id in self._learners:
            await mesh.add_node(node_id, self._app, slots=self._slots)
        self._began_s = self.loop.time()

    async def closed(self) -> None:
        """Stop, and wait for whatever cleans up; on the mesh's loop."""
        try:
            await self._mesh.close()
        finally:
            await cleared()
