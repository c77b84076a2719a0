"""Questions and orders: one request, one answer, asked again until it comes or time runs out."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from random import Random
from typing import Final

from mesh.client.answers import refusal_error
from mesh.client.submits import BACKOFF_MS, BACKOFF_MS_MAX, NEVER_MS
from mesh.errors import Backpressure, MeshUnavailable
from mesh.messages import Answer, Code

OPEN_MAX: Final = 4_096
"""Requests of one client without an answer."""

ASK_AGAIN_MS: Final = 1_000
"""A request without an answer is sent again after this, doubling up to ASK_AGAIN_MS_MAX."""

ASK_AGAIN_MS_MAX: Final = 8_000


class Request:
    """One question or order without an answer. `due_ms` is when it is sent next."""

    __slots__ = ("data", "deadline_ms", "due_ms", "future", "message", "refusals", "sends")

    def __init__(self, data: bytes, future: Future[bytes], deadline_ms: int) -> None:
        self.data = data
        self.future = future
        self.deadline_ms = deadline_ms
        self.due_ms = 0
        self.sends = 0
        self.refusals = 0
        self.message = ""


class Requests:
    """All questions and orders of one client. Times are monotonic milliseconds."""

    def __init__(self, send: Callable[[bytes], bool], rng: Random) -> None:
        self._send = send
        self._rng = rng
        self._open: dict[int, Request] = {}
        self._count = 0

    def next_number(self) -> int:
        """For the next request. Raises Backpressure when too many are open."""
        if len(self._open) >= OPEN_MAX:
            raise Backpressure(f"this client already waits for {OPEN_MAX:,} answers")
        self._count += 1
        return self._count

    def add(self, number: int, data: bytes, future: Future[bytes], deadline_ms: int, now_ms: int) -> None:
        """Send it now and again until `future` has the body of its answer, or an error."""
        request = self._open[number] = Request(data, future, deadline_ms)
        self._post(request, now_ms)

    def answered(self, answer: Answer, now_ms: int) -> None:
        request = self._open.get(answer.request)
        if request is None:
            return
        if answer.code == Code.UNAVAILABLE or answer.code == Code.BACKPRESSURE:
            request.refusals += 1
            request.message = answer.message
            most_ms = min(BACKOFF_MS_MAX, BACKOFF_MS << min(request.refusals, 8))
            request.due_ms = now_ms + self._rng.randint(BACKOFF_MS, most_ms)
            return
        del self._open[answer.request]
        if request.future.done():
            return
        if answer.code == Code.OK:
            request.future.set_result(answer.body)
        else:
            # Sent more than once: the first may have done what the second was refused.
            doubt = " (an earlier try may have succeeded)" if request.sends > 1 + request.refusals else ""
            request.future.set_exception(refusal_error(answer.code, answer.message + doubt))

    def resend_all(self, now_ms: int) -> None:
        for request in self._open.values():
            self._post(request, now_ms)

    def silent(self, now_ms: int) -> bool:
        """Whether something that left has been without any answer for too long."""
        return any(request.due_ms <= now_ms and request.sends > request.refusals for request in self._open.values())

    def tick(self, now_ms: int) -> None:
        """Give up what is past its deadline, send again what is due."""
        for number, request in list(self._open.items()):
            if request.future.done():
                del self._open[number]
            elif request.deadline_ms <= now_ms:
                del self._open[number]
                request.future.set_exception(_timeout_error(request))
            elif request.due_ms <= now_ms:
                self._post(request, now_ms)

    def due_ms(self) -> int:
        """When `tick` has something to do."""
        return min((min(request.due_ms, request.deadline_ms) for request in self._open.values()), default=NEVER_MS)

    def abandon(self, error: Exception) -> None:
        for request in self._open.values():
            if not request.future.done():
                request.future.set_exception(error)
        self._open.clear()

    def _post(self, request: Request, now_ms: int) -> None:
        unanswered = request.sends - request.refusals
        request.due_ms = now_ms + min(ASK_AGAIN_MS_MAX, ASK_AGAIN_MS << min(max(unanswered, 0), 3))
        request.sends += 1
        self._send(request.data)


def _timeout_error(request: Request) -> MeshUnavailable:
    if request.message:
        return MeshUnavailable(request.message)
    return MeshUnavailable("no answer in time: no node is reachable, or it has no quorum")
