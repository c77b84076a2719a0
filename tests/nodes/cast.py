"""Ana: a node's agents with real child processes, and what she hears from them."""

import asyncio
import os
import select
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mesh.effects import CheckpointKept, StartAttempts, StopAttempts
from mesh.events import AgentsReady, AttemptsEnded, AttemptsStarted, CheckpointOffered, Event
from mesh.ids import FencingToken, TaskId
from mesh.messages import AttemptOrder, AttemptOutcome, Lease
from nodes.agents import GRACE_S, Agents

APP = f"{Path(__file__).parent / 'agent_app.py'}:app"
PATIENCE_S = 20.0

_Wanted = TypeVar("_Wanted")


class Ana:
    """Gives orders and hears events, one at a time."""

    def __init__(
        self, apps: tuple[str, ...], slots: int, log_dir: Path | None = None, grace_s: float = GRACE_S
    ) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.turns = 0
        self.started: list[Lease] = []
        self._heard: deque[Event] = deque()
        self._token = 0
        self.agents = Agents(
            apps,
            node_id="ana",
            slots=slots,
            post=self.events.put_nowait,
            turn_ended=self._turn_ended,
            peer_address="127.0.0.1:21000",
            log_dir=log_dir,
            grace_s=grace_s,
        )

    def _turn_ended(self) -> None:
        self.turns += 1

    def order(self, capability: str, payload: Any = None, checkpoint: bytes = b"") -> AttemptOrder:
        self._token += 1
        task_id = TaskId(f"t{self._token}")
        encoded = msgspec.msgpack.encode(payload)
        return AttemptOrder(task_id, FencingToken(self._token), 1, capability, encoded, checkpoint)

    def begin(self, capability: str, payload: Any = None, checkpoint: bytes = b"") -> Lease:
        """Start one attempt."""
        return self.start(self.order(capability, payload, checkpoint))

    def alone(self, capability: str, payload: Any = None) -> Lease:
        """Start one attempt of a task that is to run alone."""
        return self.start(msgspec.structs.replace(self.order(capability, payload), is_alone=True))

    def start(self, order: AttemptOrder) -> Lease:
        self.agents.perform(StartAttempts([order]))
        return order.task_id, order.token

    def stop(self, *leases: Lease) -> None:
        self.agents.perform(StopAttempts(list(leases)))

    def kept(self, offered: CheckpointOffered, kept: bool = True) -> None:
        self.agents.perform(CheckpointKept(offered.task_id, offered.token, offered.sequence, kept))

    async def hears(self, kind: type[_Wanted]) -> _Wanted:
        """The next event, which must be of this kind. Starts are only noted: they come when they come."""
        while not self._heard:
            await self._listen()
        event = self._heard.popleft()
        assert isinstance(event, kind), event
        return event

    async def began(self, lease: Lease) -> None:
        """The start of this attempt has been reported."""
        while lease not in self.started:
            await self._listen()

    async def _listen(self) -> None:
        event = await asyncio.wait_for(self.events.get(), PATIENCE_S)
        if isinstance(event, AttemptsStarted):
            self.started += event.leases
        else:
            self._heard.append(event)

    async def outcome(self) -> AttemptOutcome:
        (outcome,) = (await self.hears(AttemptsEnded)).outcomes
        return outcome

    async def run(self, capability: str, payload: Any = None, checkpoint: bytes = b"") -> Any:
        """Run one attempt to its end. Its result, or its outcome if it failed."""
        lease = self.begin(capability, payload, checkpoint)
        outcome = await self.outcome()
        assert (outcome.task_id, outcome.token) == lease
        return outcome if outcome.error else msgspec.msgpack.decode(outcome.result)


@asynccontextmanager
async def ana(*apps: str, slots: int = 8, log_dir: Path | None = None, grace_s: float = GRACE_S) -> AsyncIterator[Ana]:
    """Ana with her agents up, and down again afterwards, whatever they are doing."""
    node = Ana(apps or (APP,), slots, log_dir, grace_s)
    capabilities = await node.agents.start()
    try:
        assert (await node.hears(AgentsReady)).capabilities == capabilities
        yield node
    finally:
        await node.agents.stop(0)
    assert node.agents.pids() == []


def play(story: Callable[[], Awaitable[None]]) -> None:
    """Run one test's story."""

    async def bounded() -> None:
        await asyncio.wait_for(story(), 3 * PATIENCE_S)

    asyncio.run(bounded())


async def gone(pidfd: int) -> bool:
    """The same as `dies`, while the loop turns."""
    return await asyncio.to_thread(dies, pidfd)


@contextmanager
def ear(directory: Path) -> Iterator[tuple[str, Callable[[], Awaitable[str]]]]:
    """Where handlers can say something, as a path, and what waits for the next word."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(directory / "ear"))
        listening.setblocking(False)

        async def hear() -> str:
            said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(listening, 64), PATIENCE_S)
            return said.decode()

        yield str(directory / "ear"), hear


def dies(pidfd: int) -> bool:
    """Wait for the end of a process; False if it lives on for PATIENCE_S. Closes the descriptor."""
    try:
        return bool(select.select([pidfd], [], [], PATIENCE_S)[0])
    finally:
        os.close(pidfd)
