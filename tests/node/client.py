"""A client of one node of the trio, and what it submits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from mesh import documents
from mesh.events import ClientMessage
from mesh.ids import ClientId, NodeId, TaskId
from mesh.messages import Answer, Ask, ClientReply, ClientRequest, Order, Question, SubmitTasks, TaskSpec, WatchTasks
from mesh.options import Options
from mesh.wire.codec import encode

if TYPE_CHECKING:
    from tests.node.trio import Trio

EPOCH_MS = 1_000_000
"""The wall clock stands this far ahead of the monotonic one, on every node."""

Document = TypeVar("Document")
Told = TypeVar("Told", bound=ClientReply)


def spec(
    name: str,
    *,
    payload: bytes = b"\x01",
    capability: str = "code",
    priority: int = 5,
    attempts_max: int = 3,
    after_ms: int = 0,
    checkpoint: bytes = b"",
    options: Options | None = None,
) -> TaskSpec:
    """A task. `after_ms` is on the cast's own clock."""
    not_before_ms = after_ms + EPOCH_MS if after_ms else 0
    return TaskSpec(
        TaskId(name), capability, payload, priority, attempts_max, not_before_ms, "test", checkpoint, options
    )


class Client:
    """A client's end of its link to one node. `heard` is all it was ever told, in order."""

    def __init__(self, trio: Trio, name: NodeId, number: int) -> None:
        self._trio = trio
        self._name = name
        self.number = ClientId(number)
        self.abroad = ClientId((trio[name].incarnation << 32) + number)
        """What other nodes call it."""
        self.heard: list[ClientReply] = []
        self.requests = 0

    def say(self, request: ClientRequest, *, ends_turn: bool = True) -> None:
        self.send(encode(request), ends_turn=ends_turn)

    def send(self, data: bytes, *, ends_turn: bool = True) -> None:
        """Any bytes at all."""
        self._trio.feed(self._name, ClientMessage(self.number, data), ends_turn=ends_turn)

    def submit(self, *specs: TaskSpec, watch: bool = True) -> None:
        self.say(SubmitTasks(watch, list(specs)))

    def watch(self, *names: str) -> None:
        self.say(WatchTasks([TaskId(name) for name in names]))

    def ask(self, question: int, *, ends_turn: bool = True, **fields: Any) -> int:
        """Returns the number of the request, for `answer`."""
        self.requests += 1
        self.say(Ask(self.requests, question, **fields), ends_turn=ends_turn)
        return self.requests

    def order(self, action: int, target: str = "", *, reason: str = "", value: bytes = b"") -> int:
        self.requests += 1
        self.say(Order(self.requests, action, target, reason, value))
        return self.requests

    def told(self, kind: type[Told]) -> list[Told]:
        """All replies of a kind."""
        return [reply for reply in self.heard if isinstance(reply, kind)]

    def answers(self, request: int) -> list[tuple[int, str]]:
        """Code and text of every answer to a request: one at most is right."""
        return [(reply.code, reply.message) for reply in self.told(Answer) if reply.request == request]

    def document(self, request: int, kind: type[Document]) -> Document:
        """The document in the one answer to a request."""
        [answer] = [reply for reply in self.told(Answer) if reply.request == request]
        assert answer.code == 0, answer
        return msgspec.msgpack.decode(answer.body, type=kind)

    def now(self, question: Question, kind: type[Document], **fields: Any) -> Document:
        """Ask, let 20 ms pass, and read the answer."""
        request = self.ask(question, **fields)
        self._trio.run(20)
        return self.document(request, kind)

    def task(self, name: str) -> documents.Task:
        return self.now(Question.TASK, documents.Task, task_id=name)
