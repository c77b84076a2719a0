"""Submits on their way: gathered into one message a loop turn, sent again under the same id until they have an answer.

A submit ends in one of three ways. Accepted: a quorum holds the task. Refused: it is certainly not in the log. Unknown:
time ran out with a question open; the same id may safely be submitted again.
"""

from __future__ import annotations

import heapq
from asyncio import Future
from collections.abc import Callable
from random import Random
from typing import Final

from mesh.client.answers import refusal_error
from mesh.client.handle import Handle
from mesh.errors import Backpressure, Conflict, MeshUnavailable
from mesh.ids import TaskId
from mesh.messages import Accepted, Code, SubmitTasks, TaskRefusal, TaskSpec, TasksRefused
from mesh.options import WhenFull
from mesh.wire.codec import encode

SPECS_MAX: Final = 512
BYTES_MAX: Final = 1 << 20
"""One message carries no more than this, except that a single larger payload travels alone."""

UNACCEPTED_MAX: Final = 65_536
"""Submits of one client without an answer. More are refused on the spot."""

RESEND_MS: Final = 1_000
"""What has no answer after this is sent again."""

BACKOFF_MS: Final = 20
BACKOFF_MS_MAX: Final = 500
"""Pause after `unavailable`: doubling between these, with jitter."""

NEVER_MS: Final = 1 << 62


class Submit:
    """One task without an answer.

    `sends` counts how often it left, `refusals` how often the answer was that it is not in the log: if they are equal,
    it certainly is not.
    """

    __slots__ = ("deadline_ms", "futures", "handle", "postponed", "refusal", "refusals", "sends", "sent_ms", "spec")

    def __init__(self, spec: TaskSpec, handle: Handle, future: Future[None], deadline_ms: int, now_ms: int) -> None:
        self.spec = spec
        self.handle = handle
        self.futures = [future]
        self.deadline_ms = deadline_ms
        self.sent_ms = now_ms
        self.sends = 1
        self.refusals = 0
        self.refusal: TaskRefusal | None = None
        self.postponed = False


class Submits:
    """All submits of one client that have no answer yet. Times are monotonic milliseconds."""

    def __init__(self, send: Callable[[bytes], bool], rng: Random) -> None:
        self._send = send
        self._rng = rng
        self._unaccepted: dict[TaskId, Submit] = {}  # In the order they were last sent in.
        self._outbox: list[TaskSpec] = []
        self._outbox_bytes = 0
        self._later: list[tuple[int, int, Submit]] = []
        self._later_count = 0
        self._deadline_ms = NEVER_MS  # No submit's deadline is earlier.

    def __len__(self) -> int:
        return len(self._unaccepted)

    def get(self, task_id: TaskId) -> Submit | None:
        return self._unaccepted.get(task_id)

    def add(self, spec: TaskSpec, handle: Handle, future: Future[None], deadline_ms: int, now_ms: int) -> None:
        """Take a submit; it leaves with the next `flush`. Raises Conflict and Backpressure."""
        known = self._unaccepted.get(spec.task_id)
        if known is not None:
            if known.spec.payload != spec.payload or known.spec.capability != spec.capability:
                raise Conflict(f"{spec.task_id!r} is being submitted by this client with another payload")
            known.futures.append(future)
            return
        if len(self._unaccepted) >= UNACCEPTED_MAX:
            raise Backpressure(f"this client already waits for the answers to {UNACCEPTED_MAX:,} submits")
        self._unaccepted[spec.task_id] = Submit(spec, handle, future, deadline_ms, now_ms)
        self._deadline_ms = min(self._deadline_ms, deadline_ms)
        self._post(spec)

    def flush(self) -> None:
        """Send what was gathered. What cannot be sent just now is sent again by `tick`."""
        specs = self._outbox
        if specs:
            self._outbox = []
            self._outbox_bytes = 0
            self._send(encode(SubmitTasks(True, specs)))

    def accepted(self, message: Accepted) -> None:
        index = message.index
        unaccepted = self._unaccepted
        for task_id in message.task_ids:
            submit = unaccepted.pop(task_id, None)
            if submit is not None:
                submit.handle.index = index
                for future in submit.futures:
                    if not future.done():
                        future.set_result(None)

    def refused(self, message: TasksRefused, now_ms: int) -> None:
        for refusal in message.refusals:
            submit = self._unaccepted.get(refusal.task_id)
            if submit is None:
                continue
            submit.refusals += 1
            submit.refusal = refusal
            if refusal.code == Code.UNAVAILABLE:
                most_ms = min(BACKOFF_MS_MAX, BACKOFF_MS << min(submit.refusals, 8))
                self._postpone(submit, now_ms + self._rng.randint(BACKOFF_MS, most_ms))
            elif refusal.code == Code.BACKPRESSURE and _rejects(submit.spec):
                self._fail(submit, _full(submit.spec.task_id, refusal))
            elif refusal.code == Code.BACKPRESSURE:
                self._postpone(submit, now_ms + max(BACKOFF_MS, refusal.retry_after_ms))
            else:
                self._fail(submit, refusal_error(refusal.code, refusal.message))

    def resend_all(self, now_ms: int) -> None:
        """Another leader, or a broken link: whatever has no answer is asked again."""
        for submit in list(self._unaccepted.values()):
            self._resend(submit, now_ms)
        self._later.clear()
        self.flush()

    def silent(self, now_ms: int) -> bool:
        """Whether something that left has been without any answer for too long."""
        return any(not submit.postponed for submit in self._overdue(now_ms))

    def tick(self, now_ms: int) -> None:
        """Give up what is past its deadline, send again what is due."""
        if now_ms >= self._deadline_ms:
            self._expire(now_ms)
        while self._later and self._later[0][0] <= now_ms:
            submit = heapq.heappop(self._later)[2]
            if submit.postponed and self._unaccepted.get(submit.spec.task_id) is submit:
                self._resend(submit, now_ms)
        for submit in self._overdue(now_ms):
            if submit.postponed:
                self._to_the_back(submit, now_ms)
            else:
                self._resend(submit, now_ms)
        self.flush()

    def due_ms(self) -> int:
        """When `tick` has something to do."""
        if not self._unaccepted:
            return NEVER_MS
        oldest = next(iter(self._unaccepted.values()))
        later_ms = self._later[0][0] if self._later else NEVER_MS
        return min(self._deadline_ms, later_ms, oldest.sent_ms + RESEND_MS)

    def give_up(self, task_id: TaskId, future: Future[None]) -> None:
        """Whoever submitted it no longer waits for the answer."""
        submit = self._unaccepted.get(task_id)
        if submit is not None and future in submit.futures:
            submit.futures.remove(future)
            if not submit.futures:
                del self._unaccepted[task_id]

    def abandon(self, error: Exception) -> None:
        """The client closes: all of them fail so."""
        for submit in list(self._unaccepted.values()):
            self._fail(submit, error)
        self._outbox.clear()
        self._later.clear()

    def _post(self, spec: TaskSpec) -> None:
        outbox = self._outbox
        size = len(spec.payload)
        if outbox and self._outbox_bytes + size > BYTES_MAX:
            self.flush()
            outbox = self._outbox
        outbox.append(spec)
        self._outbox_bytes += size
        if len(outbox) >= SPECS_MAX:
            self.flush()

    def _resend(self, submit: Submit, now_ms: int) -> None:
        self._to_the_back(submit, now_ms)
        submit.postponed = False
        submit.sends += 1
        self._post(submit.spec)

    def _to_the_back(self, submit: Submit, now_ms: int) -> None:
        task_id = submit.spec.task_id
        del self._unaccepted[task_id]
        self._unaccepted[task_id] = submit
        submit.sent_ms = now_ms

    def _postpone(self, submit: Submit, due_ms: int) -> None:
        submit.postponed = True
        self._later_count += 1
        heapq.heappush(self._later, (due_ms, self._later_count, submit))

    def _overdue(self, now_ms: int) -> list[Submit]:
        overdue = []
        for submit in self._unaccepted.values():
            if submit.sent_ms + RESEND_MS > now_ms:
                break
            overdue.append(submit)
        return overdue

    def _expire(self, now_ms: int) -> None:
        for submit in [submit for submit in self._unaccepted.values() if submit.deadline_ms <= now_ms]:
            self._fail(submit, _timeout_error(submit))
        self._deadline_ms = min((submit.deadline_ms for submit in self._unaccepted.values()), default=NEVER_MS)

    def _fail(self, submit: Submit, error: Exception) -> None:
        del self._unaccepted[submit.spec.task_id]
        for future in submit.futures:
            if not future.done():
                future.set_exception(error)


def _rejects(spec: TaskSpec) -> bool:
    """Whoever says `reject` would rather hear that there is no room than wait for it."""
    options = spec.options
    return options is not None and options.concurrency is not None and options.concurrency.when_full == WhenFull.REJECT


def _full(task_id: TaskId, refusal: TaskRefusal) -> Backpressure:
    return Backpressure(f"{refusal.message}; {task_id!r} was not taken", retry_after=refusal.retry_after_ms / 1_000)


def _timeout_error(submit: Submit) -> Exception:
    task_id, refusal = submit.spec.task_id, submit.refusal
    if refusal is not None and refusal.code == Code.BACKPRESSURE:
        return _full(task_id, refusal)
    if refusal is not None and submit.sends == submit.refusals:
        return MeshUnavailable(f"{refusal.message}; {task_id!r} is certainly not in the log")
    return MeshUnavailable(
        f"no answer about {task_id!r} in time: whether it was accepted is unknown; the same id may be submitted again"
    )
