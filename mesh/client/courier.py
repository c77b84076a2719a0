"""The machinery under a client: what was sent and has no answer, one timer for all of it, one flush a loop turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from random import Random
from time import time
from typing import Final, TypeVar

import msgspec

from mesh.client.handle import Handle
from mesh.client.links import Dial, Links
from mesh.client.requests import Requests
from mesh.client.submits import NEVER_MS, Submits
from mesh.client.waits import Waits
from mesh.documents import Status, Task, Touched
from mesh.errors import Backpressure, InvalidPayload, MeshUnavailable, Refused
from mesh.ids import TaskId
from mesh.messages import (
    Accepted,
    Action,
    Answer,
    Ask,
    LeaderHint,
    Order,
    Question,
    TaskEnd,
    TasksEnded,
    TaskSpec,
    TasksRefused,
)
from mesh.options import Dependents, Selection
from mesh.wire.codec import Rubbish, decode_reply, encode

ASK_TIMEOUT_S: Final = 30.0

HINT_WAIT_S: Final = 0.25
"""A new client waits this long to hear who leads, once a node is up."""

LEARN_AFTER_S: Final = 0.25
"""A client that lives longer than this learns the other voters."""

LEARN_TIMEOUT_MS: Final = 10_000
VOTERS_LEARNED_MAX: Final = 7

_Document = TypeVar("_Document")


class Courier:
    """Carries submits, waits and requests to the mesh and back. Belongs to the event loop it was made in."""

    def __init__(
        self, addresses: Iterable[str], dial: Dial, rng: Random, *, wall_s: Callable[[], float] = time
    ) -> None:
        """`rng` makes up ids and varies pauses; `wall_s` is the time of day, in seconds since the epoch."""
        self.wall_s = wall_s
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._links = Links(dial, addresses, deliver=self._deliver, lost=self._again, rerouted=self._rerouted)
        self._submits = Submits(self._links.send, rng)
        self._waits = Waits(self._links.send)
        self._requests = Requests(self._links.send, rng)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = NEVER_MS
        self._learning: asyncio.TimerHandle | None = None
        self._opening: asyncio.Future[None] | None = None
        self._flushing = False
        self._closed = False
        self.rubbish = 0
        """Messages that no correct node sends, dropped."""

    async def open(self, timeout_s: float) -> None:
        """Dial; return once a node is up. Raises MeshUnavailable."""
        self._opening = self._loop.create_future()
        try:
            self._links.open()
            async with asyncio.timeout(timeout_s):
                await self._opening
        except TimeoutError:
            why = self._links.why_down()
            self.close()
            raise MeshUnavailable(f"no node answered within {timeout_s:g} s ({why})") from None
        except BaseException:
            self.close()
            raise
        if not self._links.heard:
            self._opening = self._loop.create_future()
            try:
                async with asyncio.timeout(min(timeout_s, HINT_WAIT_S)):
                    await self._opening
            except TimeoutError:
                pass  # Any node will do; it forwards.
        self._opening = None
        self._learn_soon()

    def close(self) -> None:
        """Let go of everything; whatever is still waited for fails with MeshUnavailable."""
        if self._closed:
            return
        self._flush()
        self._closed = True
        for timer in (self._timer, self._learning):
            if timer is not None:
                timer.cancel()
        closed = MeshUnavailable("the client was closed before the answer came; its outcome is unknown")
        self._submits.abandon(closed)
        self._waits.abandon(closed)
        self._requests.abandon(closed)
        self._links.close()

    def new_id(self) -> str:
        """An id no other task has."""
        return f"{self._rng.getrandbits(128):032x}"

    # --- submits, waits, requests -------------------------------------------------------------------------------------

    async def submit(self, spec: TaskSpec, timeout_s: float) -> Handle:
        """Returns once a quorum holds the task. Raises what MeshClient.submit does."""
        self._check_open()
        loop = self._loop
        now_ms = int(loop.time() * 1_000)
        handle = self._waits.handles.get(spec.task_id)
        if handle is None:
            handle = Handle(self, spec.task_id)
            self._waits.expect(handle)
        future: asyncio.Future[None] = loop.create_future()
        try:
            self._submits.add(spec, handle, future, now_ms + int(timeout_s * 1_000), now_ms)
            if not self._flushing:
                self._flushing = True
                loop.call_soon(self._flush)
            await future
        except BaseException:
            self._submits.give_up(spec.task_id, future)
            if not handle.index and self._submits.get(spec.task_id) is None:
                self._waits.forget(handle)
            raise
        return handle

    def handle(self, task_id: str) -> Handle:
        """The one handle of a task whose end is not known, or a new one."""
        known = self._waits.handles.get(task_id)  # type: ignore[call-overload]
        return Handle(self, task_id) if known is None else known  # type: ignore[arg-type]

    def wait(self, handle: Handle, future: asyncio.Future[None], timeout_s: float | None) -> None:
        """Set the future once the task has ended."""
        self._check_open()
        now_ms = int(self._loop.time() * 1_000)
        deadline_ms = NEVER_MS if timeout_s is None else now_ms + int(timeout_s * 1_000)
        self._waits.wait(handle, future, deadline_ms, now_ms)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def stop_waiting(self, handle: Handle, future: asyncio.Future[None]) -> None:
        self._waits.stop(handle, future)

    async def end_of(self, handle: Handle, timeout_s: float | None) -> TaskEnd:
        """How a task ended. Raises TaskTimeout."""
        future: asyncio.Future[None] = self._loop.create_future()
        self.wait(handle, future, timeout_s)
        try:
            await future
        except BaseException:
            self._waits.stop(handle, future)
            raise
        if timeout_s is not None:
            self._waits.stop(handle, future)
        assert handle.end is not None, "a waiter is released by the end of its task"
        return handle.end

    async def ask(
        self,
        kind: type[_Document],
        question: Question,
        *,
        stale: bool = False,
        task_id: str = "",
        after: str = "",
        limit: int = 100,
        states: tuple[int, ...] = (),
        capability: str = "",
        timeout_s: float | None = None,
    ) -> _Document:
        """The document that answers a question. Raises MeshUnavailable, NotFound, InvalidPayload."""
        number = self._requests.next_number()
        ask = Ask(number, question, stale, task_id, after, limit, states, capability)
        body = await self._request(number, _encoded(ask), timeout_s)
        return _document(kind, body)

    async def order(
        self, action: Action, target: str, reason: str = "", value: bytes = b"", timeout_s: float | None = None
    ) -> bytes:
        """Returns the body of the answer, once it is done. Raises MeshUnavailable, or what the refusal stands for."""
        number = self._requests.next_number()
        return await self._request(number, _encoded(Order(number, action, target, reason, value)), timeout_s)

    async def order_many(
        self, action: Action, target: str, reason: str = "", value: bytes = b"", timeout_s: float | None = None
    ) -> Touched:
        """An order that means many tasks: returns which, once it is done. Raises likewise."""
        return _document(Touched, await self.order(action, target, reason, value, timeout_s))

    async def cancel(
        self, task_id: str, reason: str, timeout_s: float | None = None, dependents: int = Dependents.LEAVE
    ) -> None:
        """Cancel a task, or find out that it has ended otherwise: that raises Refused. Raises NotFound."""
        if dependents == Dependents.LEAVE:
            await self.order(Action.CANCEL, task_id, reason, timeout_s=timeout_s)
        else:
            selection = Selection(task_ids=(TaskId(task_id),), dependents=dependents)
            await self.order_many(Action.CANCEL_MANY, "", reason, encode(selection), timeout_s)
        # To the mesh, cancelling what has ended is a wish already granted; to whoever cancels it is not the same.
        state = (await self.ask(Task, Question.TASK, task_id=task_id, timeout_s=timeout_s)).state
        if state != "cancelled":
            raise Refused(f"{task_id!r} has ended already: {state}")

    async def _request(self, number: int, data: bytes, timeout_s: float | None) -> bytes:
        self._check_open()
        future: asyncio.Future[bytes] = self._loop.create_future()
        now_ms = int(self._loop.time() * 1_000)
        deadline_ms = now_ms + int((ASK_TIMEOUT_S if timeout_s is None else timeout_s) * 1_000)
        self._requests.add(number, data, future, deadline_ms, now_ms)
        self._arm()
        return await future

    # --- what comes in, and when -------------------------------------------------------------------------------------

    def _deliver(self, data: bytes) -> None:
        """One message of some node."""
        try:
            message = decode_reply(data)
        except Rubbish:
            self.rubbish += 1
            return
        kind = type(message)
        if kind is TasksEnded:
            self._waits.ended(message)  # type: ignore[arg-type]
        elif kind is Accepted:
            self._submits.accepted(message)  # type: ignore[arg-type]
        elif kind is TasksRefused:
            self._submits.refused(message, int(self._loop.time() * 1_000))  # type: ignore[arg-type]
            self._arm()
        elif kind is Answer:
            self._requests.answered(message, int(self._loop.time() * 1_000))  # type: ignore[arg-type]
            self._arm()
        elif isinstance(message, LeaderHint):
            if self._links.lead(message.term, message.leader or "", message.address):
                self._again()
                self._learn_soon()
            self._rerouted()

    def _rerouted(self) -> None:
        """A node is up, or says who leads: what `open` waits for."""
        if self._opening is not None and not self._opening.done():
            self._opening.set_result(None)

    def _again(self) -> None:
        """Another leader, or a broken link: say again whatever has no answer, ask again for whatever may have ended."""
        if self._closed:
            return
        now_ms = int(self._loop.time() * 1_000)
        self._submits.resend_all(now_ms)
        self._waits.watch_all(now_ms)
        self._requests.resend_all(now_ms)
        self._arm()

    def _flush(self) -> None:
        """End of a loop turn: what was gathered leaves."""
        self._flushing = False
        self._submits.flush()
        self._waits.flush()
        self._arm()

    def _arm(self) -> None:
        """One timer for everything that is waited for."""
        due_ms = min(self._submits.due_ms(), self._waits.due_ms(), self._requests.due_ms())
        if due_ms >= self._timer_ms or self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ms = due_ms
        self._timer = self._loop.call_at((due_ms + 1) / 1_000, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._timer_ms = NEVER_MS
        now_ms = int(self._loop.time() * 1_000)
        if self._submits.silent(now_ms) or self._requests.silent(now_ms):
            self._links.avoid_silent()
        self._submits.tick(now_ms)
        self._waits.tick(now_ms)
        self._requests.tick(now_ms)
        self._arm()

    def _check_open(self) -> None:
        if self._closed:
            raise MeshUnavailable("the client is closed")

    # --- learning the other voters ------------------------------------------------------------------------------------

    def _learn_soon(self) -> None:
        if self._learning is None and not self._closed:
            self._learning = self._loop.call_later(LEARN_AFTER_S, self._learn)

    def _learn(self) -> None:
        """Ask whoever is up for the voters, so that this client outlives every peer it was given."""
        self._learning = None
        future: asyncio.Future[bytes] = self._loop.create_future()
        now_ms = int(self._loop.time() * 1_000)
        try:
            number = self._requests.next_number()
        except Backpressure:  # Busy with thousands of questions: another leader will be another occasion.
            return
        future.add_done_callback(self._learned)
        self._requests.add(
            number, encode(Ask(number, Question.STATUS, True)), future, now_ms + LEARN_TIMEOUT_MS, now_ms
        )
        self._arm()

    def _learned(self, future: asyncio.Future[bytes]) -> None:
        if future.cancelled() or future.exception() is not None or self._closed:  # Looked at, or asyncio complains.
            return
        try:
            status = msgspec.msgpack.decode(future.result(), type=Status)
        except msgspec.MsgspecError:
            self.rubbish += 1
            return
        self.learn(status)

    def learn(self, status: Status) -> None:
        """Dial the voters a status names, unless the client is closed."""
        if not self._closed:
            self._links.learn([node.address for node in status.nodes if node.role == "voter"][:VOTERS_LEARNED_MAX])


def _encoded(request: Ask | Order) -> bytes:
    """Raises InvalidPayload: names in questions and orders are taken as they are given."""
    try:
        return encode(request)
    except UnicodeEncodeError:
        raise InvalidPayload("what was asked has text that is not valid Unicode (a lone surrogate)") from None


def _document(kind: type[_Document], body: bytes) -> _Document:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise MeshUnavailable(f"the node answered with another version's document: {error}") from None
