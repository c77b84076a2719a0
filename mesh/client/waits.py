"""Who waits for the end of which task. Nodes tell of ends unasked; what they told a broken link is asked for again."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from typing import Final

from mesh.client.handle import UNKNOWN, Handle
from mesh.client.submits import NEVER_MS
from mesh.errors import TaskTimeout
from mesh.ids import TaskId
from mesh.messages import TasksEnded, WatchTasks
from mesh.wire.codec import encode

IDS_MAX: Final = 512
"""Task ids in one message."""

WATCH_AGAIN_MS: Final = 5_000
"""A task whose end has not come after this is asked for again. Grows by a millisecond per task waited for, so that
no more than a thousand a second are."""

WATCH_SOON_MS: Final = (1_600, 400, 100)
"""After a change of leader, ask again this much later too: a node just elected does not hear this until it serves."""

UNKNOWN_MAX: Final = 3
"""A node that lags may not know a task just accepted. So many times `no such task` is believed."""


class Waits:
    """Every task of one client whose end is not known. Times are monotonic milliseconds."""

    def __init__(self, send: Callable[[bytes], bool]) -> None:
        self._send = send
        self.handles: dict[TaskId, Handle] = {}
        self._waiting: dict[TaskId, Handle] = {}  # Those somebody awaits, in the order they were last asked for.
        self._outbox: list[TaskId] = []
        self._deadlines: dict[Future[None], int] = {}
        self._deadline_ms = NEVER_MS  # No deadline is earlier.
        self._epoch = 1
        self._soon_ms: list[int] = []  # When to ask for everything awaited, latest first.

    def expect(self, handle: Handle) -> None:
        """A submit that watches is about to leave."""
        handle.epoch = self._epoch
        self.handles[handle.id] = handle

    def wait(self, handle: Handle, future: Future[None], deadline_ms: int, now_ms: int) -> None:
        """Set the future once the end is known; at the deadline it raises TaskTimeout."""
        if handle.waiters is None:
            handle.waiters = [future]
        else:
            handle.waiters.append(future)
        if deadline_ms != NEVER_MS:
            self._deadlines[future] = deadline_ms
            self._deadline_ms = min(self._deadline_ms, deadline_ms)
        task_id = handle.id
        self.handles[task_id] = handle
        if task_id not in self._waiting:
            handle.watched_ms = now_ms
            self._waiting[task_id] = handle
        if handle.epoch != self._epoch:
            self._watch(handle, now_ms)

    def stop(self, handle: Handle, future: Future[None]) -> None:
        """Nobody awaits this future any more."""
        self._deadlines.pop(future, None)
        waiters = handle.waiters
        if waiters is not None and future in waiters:
            waiters.remove(future)
            if not waiters:
                handle.waiters = None
        if handle.waiters is None:
            self._waiting.pop(handle.id, None)

    def forget(self, handle: Handle) -> None:
        """The task was not accepted."""
        if self.handles.get(handle.id) is handle and handle.waiters is None:
            del self.handles[handle.id]

    def ended(self, message: TasksEnded) -> None:
        handles, waiting = self.handles, self._waiting
        for end in message.ends:
            handle = handles.get(end.task_id)
            if handle is None:
                continue
            if end.state == UNKNOWN and handle.index and handle.unknown < UNKNOWN_MAX:
                handle.unknown += 1  # We were told it was accepted: ask again later.
                continue
            del handles[end.task_id]
            waiting.pop(end.task_id, None)
            handle.ended(end)

    def watch_all(self, now_ms: int) -> None:
        """Another leader, or a broken link: whatever was to be told may be lost. Ask for everything accepted."""
        self._epoch += 1
        self._soon_ms = [now_ms + pause_ms for pause_ms in WATCH_SOON_MS]
        for handle in self.handles.values():
            if handle.index or handle.waiters is not None:
                self._ask(handle, now_ms)
        self.flush()

    def flush(self) -> None:
        outbox = self._outbox
        if outbox:
            self._outbox = []
            for start in range(0, len(outbox), IDS_MAX):
                self._send(encode(WatchTasks(outbox[start : start + IDS_MAX])))

    def tick(self, now_ms: int) -> None:
        """End waits that are past their deadline; ask again for ends that are long in coming."""
        if now_ms >= self._deadline_ms:
            for future, deadline_ms in list(self._deadlines.items()):
                if deadline_ms <= now_ms:
                    del self._deadlines[future]
                    if not future.done():
                        future.set_exception(TaskTimeout("the wait ended before the task did; the task goes on"))
            self._deadline_ms = min(self._deadlines.values(), default=NEVER_MS)
        if self._soon_ms and self._soon_ms[-1] <= now_ms:
            self._soon_ms.pop()
            self._epoch += 1  # Who begins to wait later asks too.
            for handle in self._waiting.values():
                self._ask(handle, now_ms)
        again_ms = now_ms - self._again_after_ms()
        overdue = []
        for handle in self._waiting.values():
            if handle.watched_ms > again_ms:
                break
            overdue.append(handle)
        for handle in overdue:
            self._watch(handle, now_ms)
        self.flush()

    def due_ms(self) -> int:
        """When `tick` has something to do."""
        due_ms = min(self._deadline_ms, self._soon_ms[-1]) if self._soon_ms else self._deadline_ms
        if not self._waiting:
            return due_ms
        oldest = next(iter(self._waiting.values()))
        return min(due_ms, oldest.watched_ms + self._again_after_ms())

    def abandon(self, error: Exception) -> None:
        """The client closes: whoever waits hears this."""
        for handle in self.handles.values():
            handle.abandoned(error)
        self.handles.clear()
        self._waiting.clear()
        self._deadlines.clear()
        self._soon_ms.clear()
        self._outbox.clear()

    def _again_after_ms(self) -> int:
        return max(WATCH_AGAIN_MS, len(self._waiting))

    def _watch(self, handle: Handle, now_ms: int) -> None:
        """Ask, and move to the end of the line."""
        self._waiting.pop(handle.id, None)
        self._waiting[handle.id] = handle
        self._ask(handle, now_ms)

    def _ask(self, handle: Handle, now_ms: int) -> None:
        handle.epoch = self._epoch
        handle.watched_ms = now_ms
        self._outbox.append(handle.id)
