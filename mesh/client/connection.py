"""A client of the mesh: submit from anywhere, wait for the end, ask, order."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from mesh.client.courier import ASK_TIMEOUT_S, Courier
from mesh.client.handle import Handle
from mesh.client.payload import check_attempts, check_delay, check_name, encode_payload, priority_number
from mesh.documents import (
    DeadLetterPage,
    EventLine,
    EventPage,
    Explanation,
    RaftStatus,
    Status,
    Task,
    TaskPage,
)
from mesh.errors import InvalidPayload, MeshUnavailable
from mesh.ids import TaskId
from mesh.ledger.task import STATE_NAMES
from mesh.messages import Action, Question, TaskSpec

SUBMIT_TIMEOUT_S: Final = 30.0
QUORUM_PATIENCE_S: Final = 1.0
"""How long `status` waits for a quorum before it takes what one node knows."""

MAP_CHUNK: Final = 1_024


class MeshClient:
    """One client. Made by `connect`; belongs to the event loop it was made in.

    Everything it sends and has no answer to is sent again, under the same id, to whichever node is up: it outlives the
    node it talks to, and the leader. Times given by users are seconds.
    """

    def __init__(self, courier: Courier) -> None:
        self._courier = courier
        self._source = f"pid {os.getpid()}"

    async def close(self) -> None:
        """Let go of everything; whatever is still waited for fails with MeshUnavailable."""
        self._courier.close()

    async def __aenter__(self) -> MeshClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- submitting ---------------------------------------------------------------------------------------------------

    async def submit(
        self,
        capability: str,
        payload: Any = None,
        *,
        task_id: str | None = None,
        priority: int | str = 5,
        max_attempts: int = 3,
        timeout: float | None = None,
        delay: float = 0.0,
    ) -> Handle:
        """Hand a task to the mesh; returns once a quorum holds it.

        Args:
            capability: what a node must offer to run it.
            payload: a JSON value; a mapping becomes keyword arguments of the handler.
            task_id: submitting the same id again is harmless. Made up if not given.
            priority: 0 to 255, the lower first, or urgent, critical, high, normal, low.
            max_attempts: then it becomes a dead letter.
            timeout: seconds until the submit is given up (30).
            delay: seconds before the first attempt.

        Raises:
            InvalidPayload: before anything is sent.
            Conflict: the id belongs to a task with another capability or payload.
            Backpressure: the mesh stayed full until the timeout.
            MeshUnavailable: no quorum, or nobody answered; the message says whether the outcome is known.
        """
        check_attempts(max_attempts)
        check_delay(delay)
        if task_id is None:
            task_id = os.urandom(16).hex()
        else:
            check_name("task id", task_id)
        check_name("capability", capability)
        spec = TaskSpec(
            TaskId(task_id),
            capability,
            encode_payload(payload),
            priority_number(priority),
            max_attempts,
            int((time.time() + delay) * 1_000) if delay > 0 else 0,
            self._source,
        )
        return await self._courier.submit(spec, SUBMIT_TIMEOUT_S if timeout is None else timeout)

    async def map(self, capability: str, payloads: Iterable[Any], **options: Any) -> list[Handle]:
        """Submit one task for each payload, in order. Options as for `submit`, without task_id."""
        handles: list[Handle] = []
        chunk: list[Any] = []
        for payload in payloads:
            chunk.append(payload)
            if len(chunk) == MAP_CHUNK:
                handles += await asyncio.gather(*(self.submit(capability, item, **options) for item in chunk))
                chunk = []
        handles += await asyncio.gather(*(self.submit(capability, item, **options) for item in chunk))
        return handles

    def handle(self, task_id: str) -> Handle:
        """The handle of a task submitted earlier, perhaps by somebody else. Asks nobody."""
        check_name("task id", task_id)
        return self._courier.handle(task_id)

    async def as_completed(self, handles: Iterable[Handle], *, timeout: float | None = None) -> AsyncIterator[Handle]:
        """Yield each handle once its task has ended, in whatever way. Raises TaskTimeout after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Queue[tuple[Handle, asyncio.Future[None]]] = asyncio.Queue()
        open_waits: dict[asyncio.Future[None], Handle] = {}
        try:
            for handle in list(handles):
                future: asyncio.Future[None] = loop.create_future()
                if handle.end is not None:
                    future.set_result(None)
                else:
                    self._courier.wait(handle, future, timeout)
                open_waits[future] = handle
                future.add_done_callback(lambda done, handle=handle: ended.put_nowait((handle, done)))  # type: ignore[misc]
            while open_waits:
                handle, future = await ended.get()
                del open_waits[future]
                future.result()
                yield handle
        finally:
            for future, handle in open_waits.items():
                self._courier.stop_waiting(handle, future)
                if not future.cancel() and not future.cancelled():
                    future.exception()

    # --- questions ----------------------------------------------------------------------------------------------------

    async def status(self, *, stale: bool = False, timeout: float | None = None) -> Status:
        """The mesh on one page. Without a quorum, what one node knows, marked `stale`."""
        timeout_s = ASK_TIMEOUT_S if timeout is None else timeout
        started = time.monotonic()
        if not stale:
            try:
                status = await self._courier.ask(Status, Question.STATUS, timeout_s=min(timeout_s, QUORUM_PATIENCE_S))
                self._courier.learn(status)
                return status
            except MeshUnavailable:
                timeout_s = max(0.5, timeout_s - (time.monotonic() - started))
        return await self._courier.ask(Status, Question.STATUS, stale=True, timeout_s=timeout_s)

    async def task(self, task_id: str, *, stale: bool = False, timeout: float | None = None) -> Task:
        """One task with its history. Raises NotFound."""
        return await self._courier.ask(Task, Question.TASK, stale=stale, task_id=task_id, timeout_s=timeout)

    async def tasks(
        self,
        *,
        state: str | Iterable[str] = (),
        capability: str = "",
        after: str = "",
        limit: int = 100,
        stale: bool = False,
        timeout: float | None = None,
    ) -> TaskPage:
        """A page of tasks in order of id; go on with `after=page.next`."""
        names = (state,) if isinstance(state, str) else tuple(state)
        return await self._courier.ask(
            TaskPage,
            Question.TASKS,
            stale=stale,
            after=after,
            limit=limit,
            states=tuple(number for name in names for number in _state_numbers(name)),
            capability=capability,
            timeout_s=timeout,
        )

    async def dead_letters(
        self, *, after: str = "", limit: int = 100, stale: bool = False, timeout: float | None = None
    ) -> DeadLetterPage:
        """A page of tasks that failed for good; go on with `after=page.next`."""
        return await self._courier.ask(
            DeadLetterPage, Question.DEAD_LETTERS, stale=stale, after=after, limit=limit, timeout_s=timeout
        )

    async def event_page(
        self, after: str = "0", *, limit: int = 1_000, stale: bool = False, timeout: float | None = None
    ) -> EventPage:
        """Committed events after a cursor (a log index as text)."""
        return await self._courier.ask(
            EventPage, Question.EVENTS, stale=stale, after=after, limit=limit, timeout_s=timeout
        )

    async def events(
        self, after: int = 0, *, follow: bool = False, poll_s: float = 0.2, stale: bool = False
    ) -> AsyncIterator[EventLine]:
        """What has happened since log index `after`; with `follow`, what happens, without end."""
        cursor = str(after)
        while True:
            page = await self.event_page(cursor, stale=stale)
            for event in page.events:
                yield event
            if page.next and page.next != cursor:
                cursor = page.next
            elif follow:
                await asyncio.sleep(poll_s)
            else:
                return
            # From here on any node's word will do: the cursor sees to it that nothing is missed.
            stale = stale or (follow and not page.events)

    async def explain(self, task_id: str, *, stale: bool = False, timeout: float | None = None) -> Explanation:
        """Why a task is where it is: its place in the queue, and what each node lacks. Raises NotFound."""
        return await self._courier.ask(Explanation, Question.EXPLAIN, stale=stale, task_id=task_id, timeout_s=timeout)

    async def raft_status(self, *, stale: bool = True, timeout: float | None = None) -> RaftStatus:
        """The log as the answering node sees it; as the leader does with `stale=False`."""
        return await self._courier.ask(RaftStatus, Question.RAFT, stale=stale, timeout_s=timeout)

    # --- orders -------------------------------------------------------------------------------------------------------

    async def cancel(self, task_id: str, reason: str = "", *, timeout: float | None = None) -> None:
        """Cancel a task; once this returns, it will not complete any more. Raises NotFound, Refused if it has ended."""
        await self._courier.cancel(task_id, reason, timeout)

    async def retry(self, task_id: str, *, timeout: float | None = None) -> None:
        """Put a dead letter back in the queue, its attempts forgotten. Raises NotFound, Refused."""
        await self._courier.order(Action.RETRY, task_id, timeout_s=timeout)

    async def drop(self, task_id: str, reason: str = "", *, timeout: float | None = None) -> None:
        """Give a dead letter up for good: it ends as failed. Raises NotFound, Refused."""
        await self._courier.order(Action.DROP, task_id, reason, timeout_s=timeout)

    async def transfer(self, node_id: str, *, timeout: float | None = None) -> None:
        """Make this node the leader. Raises NotFound, Refused."""
        await self._courier.order(Action.TRANSFER, node_id, timeout_s=timeout)

    async def add_voter(self, node_id: str, *, timeout: float | None = None) -> None:
        """Give a node a vote; returns once it has caught up and has it. Raises NotFound, Refused."""
        await self._courier.order(Action.ADD_VOTER, node_id, timeout_s=timeout)

    async def remove_voter(self, node_id: str, *, timeout: float | None = None) -> None:
        """Take a node's vote; it goes on as a learner, until it is given one again. Raises NotFound, Refused."""
        await self._courier.order(Action.REMOVE_VOTER, node_id, timeout_s=timeout)

    async def forget(self, node_id: str, *, timeout: float | None = None) -> None:
        """Remove a node for good: its process ends, its data is never let in again. Raises NotFound, Refused."""
        await self._courier.order(Action.FORGET, node_id, timeout_s=timeout)

    async def drain(self, node_id: str, reason: str = "", *, timeout: float | None = None) -> None:
        """Give a node no more work. Raises NotFound."""
        await self._courier.order(Action.DRAIN, node_id, reason, timeout_s=timeout)

    async def undrain(self, node_id: str, *, timeout: float | None = None) -> None:
        """Give it work again. Raises NotFound."""
        await self._courier.order(Action.UNDRAIN, node_id, timeout_s=timeout)

    async def recover(self, node_id: str, reason: str = "", *, timeout: float | None = None) -> None:
        """End all leases of a node and run their tasks elsewhere. Raises NotFound."""
        await self._courier.order(Action.RECOVER, node_id, reason, timeout_s=timeout)

    async def rebalance(self, *, timeout: float | None = None) -> None:
        """Move tasks off overloaded, draining and failed nodes."""
        await self._courier.order(Action.REBALANCE, "", timeout_s=timeout)

    async def save_checkpoint(self, task_id: str, state: Any, *, timeout: float | None = None) -> None:
        """Save the checkpoint of a running task from outside its handler. Raises NotFound, Refused."""
        await self._courier.order(Action.CHECKPOINT, task_id, value=encode_payload(state), timeout_s=timeout)


def _state_numbers(name: str) -> tuple[int, ...]:
    if name not in STATE_NAMES:
        raise InvalidPayload(f"no state is called {name!r}; there are {', '.join(STATE_NAMES)}")
    return (STATE_NAMES.index(name),)
