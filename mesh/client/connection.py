"""A client of the mesh: submit from anywhere, wait for the end, ask, order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final, Unpack

from mesh.client.courier import Courier
from mesh.client.handle import Handle
from mesh.client.options import treated
from mesh.client.orders import Orders
from mesh.client.payload import encode_payload
from mesh.client.questions import Questions
from mesh.ids import TaskId
from mesh.messages import TaskSpec
from mesh.treatment import (
    ATTEMPTS_DEFAULT,
    PRIORITY_DEFAULT,
    Duration,
    Treatment,
    check_attempts,
    check_name,
    priority_number,
)

SUBMIT_TIMEOUT_S: Final = 30.0
MAP_CHUNK: Final = 1_024


class MeshClient(Questions, Orders):
    """One client. Made by `connect`; belongs to the event loop it was made in.

    Everything it sends and has no answer to is sent again, under the same id, to whichever node is up: it outlives the
    node it talks to, and the leader. Times given by users are seconds. A `timeout` is how long an answer is waited for,
    30 if not given.
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

    async def submit(
        self,
        capability: str,
        payload: Any = None,
        *,
        task_id: str | None = None,
        priority: int | str = PRIORITY_DEFAULT,
        max_attempts: int | None = None,
        timeout: float | None = None,
        delay: Duration | None = 0.0,
        **treatment: Unpack[Treatment],
    ) -> Handle:
        """Hand a task to the mesh; returns once a quorum holds it. Durations are seconds, or text like "500ms", "10m".

        Args:
            capability: what a node must offer to run it.
            payload: a JSON value; a mapping becomes keyword arguments of the handler.
            task_id: submitting the same id again is harmless. Made up if not given.
            priority: 0 to 255, the lower first, or urgent, critical, high, normal, low.
            max_attempts: then it becomes a dead letter. That of `retry` if not given, or 3.
            timeout: seconds until the submit is given up (30).
            delay: before the first attempt.
            treatment: key, key_window, at, expires, retry, schedule_timeout, run_timeout, progress_timeout, on_loss,
                fallback, concurrency, rate, fairness, weight, require, avoid, prefer, location, sticky, sticky_hard,
                version: see mesh.treatment.Treatment.

        Raises:
            InvalidPayload: before anything is sent.
            Conflict: the id belongs to a task with another capability or payload.
            Backpressure: the mesh stayed full until the timeout, or the key of its `concurrency` refuses more.
            MeshUnavailable: no quorum, or nobody answered; the message says whether the outcome is known.
        """
        check_name("capability", capability)
        not_before_ms, options = 0, None
        if treatment or delay != 0.0:
            task_id, max_attempts, not_before_ms, options = treated(
                capability,
                payload,
                treatment,
                task_id=task_id,
                max_attempts=max_attempts,
                delay=delay,
                now_ms=int(self._courier.wall_s() * 1_000),
            )
        if max_attempts is None:
            max_attempts = ATTEMPTS_DEFAULT
        else:
            check_attempts(max_attempts)
        if task_id is None:
            task_id = self._courier.new_id()
        else:
            check_name("task id", task_id)
        spec = TaskSpec(
            TaskId(task_id),
            capability,
            encode_payload(payload),
            priority_number(priority),
            max_attempts,
            not_before_ms,
            self._source,
            b"",
            options,
        )
        return await self._courier.submit(spec, SUBMIT_TIMEOUT_S if timeout is None else timeout)

    async def map(self, capability: str, payloads: Iterable[Any], **options: Any) -> list[Handle]:
        """Submit one task for each payload, in order. Options as for `submit`, without task_id and key."""
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
