"""A mesh of three real processes on this machine, a node that is played, and a way to tell a story with them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from mesh.client import MeshClient
from mesh.client.courier import Courier
from mesh.client.links import LinkEvents
from mesh.ids import LogIndex, NodeId, TaskId, Term
from mesh.messages import (
    Accepted,
    Answer,
    Ask,
    Code,
    LeaderHint,
    Order,
    Question,
    SubmitTasks,
    TaskEnd,
    TasksEnded,
    TaskSpec,
    WatchTasks,
)
from mesh.wire.codec import decode_request, encode
from nodes.local_mesh import LocalMesh, LocalMeshSettings, free_base_port

STORY_TIMEOUT_S = 45.0


@asynccontextmanager
async def three_nodes(data_dir: Path, base_port: int = 0) -> AsyncIterator[LocalMesh]:
    """n1, n2 and n3, healthy, offering what app.py has."""
    settings = LocalMeshSettings(
        nodes=3,
        base_port=base_port or free_base_port(3),
        apps=(f"{Path(__file__).with_name('app.py')}:app",),
        data_dir=data_dir,
        heartbeat_interval_ms=200,
    )
    async with LocalMesh(settings) as local:
        yield local


def play(story: Callable[[], Awaitable[None]]) -> None:
    """Run a story to its end, or fail after a while. Warnings of the event loop fail the test too."""

    async def bounded() -> None:
        async with asyncio.timeout(STORY_TIMEOUT_S):
            await story()

    asyncio.run(bounded(), debug=False)


class Ben:
    """The one node of a client: takes every task, does every order, answers every question as he is told to.

    Attributes:
        specs, orders, asks: what the client said, in order.
        body: the body of his next answers, before it is encoded; None, there is none.
        ends: how he will say that tasks end.
    """

    def __init__(self) -> None:
        self.specs: list[TaskSpec] = []
        self.orders: list[Order] = []
        self.asks: list[Ask] = []
        self.body: Any = None
        self.ends: dict[str, TaskEnd] = {}
        self._loop = asyncio.get_running_loop()

    async def client(self) -> MeshClient:
        courier = Courier(["127.0.0.1:21000"], self._dial, Random(7))
        await courier.open(5.0)
        return MeshClient(courier)

    def ending(self, task_id: str, state: int, error: str = "", result: Any = None, attempts: int = 0) -> None:
        self.ends[task_id] = TaskEnd(TaskId(task_id), state, encode(result), error, "", NodeId("ben"), attempts)

    def _dial(self, _address: str, events: LinkEvents) -> "Ben":
        self._events = events
        self._loop.call_soon(events.on_up, "ben", 1)
        self._say(LeaderHint(Term(1), NodeId("ben"), "127.0.0.1:21000"))
        return self

    def send(self, data: bytes) -> bool:
        match decode_request(data):
            case SubmitTasks(specs=specs):
                self.specs += specs
                self._say(Accepted(LogIndex(9), [spec.task_id for spec in specs]))
                self._tell([spec.task_id for spec in specs])
            case WatchTasks(task_ids=task_ids):
                self._tell(task_ids)
            case Ask() as ask:
                self.asks += [ask] if ask.question != Question.STATUS else []
                self._say(Answer(ask.request, Code.OK, "", encode(self.body)))
            case order:
                self.orders.append(order)
                self._say(Answer(order.request, Code.OK, "", b"" if self.body is None else encode(self.body)))
        return True

    def close(self) -> None: ...

    def _tell(self, task_ids: list[TaskId]) -> None:
        ended = [self.ends[task_id] for task_id in task_ids if task_id in self.ends]
        if ended:
            self._say(TasksEnded(ended))

    def _say(self, message: Accepted | Answer | LeaderHint | TasksEnded) -> None:
        self._loop.call_soon(self._events.on_message, encode(message))
