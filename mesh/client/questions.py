"""What can be asked of the mesh: documents, as people read them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Final

from mesh.client.courier import ASK_TIMEOUT_S, Courier
from mesh.documents import (
    Agents,
    Crons,
    DeadLetterGroups,
    DeadLetterPage,
    EventLine,
    EventPage,
    Explanation,
    Queues,
    RaftStatus,
    SettingsView,
    Status,
    Task,
    TaskPage,
)
from mesh.errors import InvalidPayload, MeshUnavailable
from mesh.ledger.task import STATE_NAMES
from mesh.messages import Question

QUORUM_PATIENCE_S: Final = 1.0
"""How long `status` waits for a quorum before it takes what one node knows."""


class Questions:
    """The questions of a client. Each is answered as of now, unless `stale`: then by any node, as far as it knows.

    All raise MeshUnavailable where there is nobody to answer.
    """

    _courier: Courier

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
        return await self._courier.ask(
            TaskPage,
            Question.TASKS,
            stale=stale,
            after=after,
            limit=limit,
            states=state_numbers(state),
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

    async def queues(self, *, stale: bool = False, timeout: float | None = None) -> Queues:
        """What waits, by capability and by priority, and how much room there is."""
        return await self._courier.ask(Queues, Question.QUEUES, stale=stale, timeout_s=timeout)

    async def agents(self, *, stale: bool = False, timeout: float | None = None) -> Agents:
        """The nodes as runners of tasks: health score, load, breakers, running times; and the strategy in force."""
        return await self._courier.ask(Agents, Question.AGENTS, stale=stale, timeout_s=timeout)

    async def crons(self, *, stale: bool = False, timeout: float | None = None) -> Crons:
        """The schedules, and when each fires next."""
        return await self._courier.ask(Crons, Question.CRONS, stale=stale, timeout_s=timeout)

    async def dead_letter_groups(self, *, stale: bool = False, timeout: float | None = None) -> DeadLetterGroups:
        """Dead letters by what they died of."""
        return await self._courier.ask(DeadLetterGroups, Question.DEAD_LETTER_GROUPS, stale=stale, timeout_s=timeout)

    async def settings(self, *, stale: bool = False, timeout: float | None = None) -> SettingsView:
        """The numbers the mesh is run by, by name; `set` changes them."""
        return await self._courier.ask(SettingsView, Question.SETTINGS, stale=stale, timeout_s=timeout)


def state_numbers(state: str | Iterable[str]) -> tuple[int, ...]:
    """One state by name, or several. Raises InvalidPayload."""
    names = (state,) if isinstance(state, str) else tuple(state)
    for name in names:
        if name not in STATE_NAMES:
            raise InvalidPayload(f"no state is called {name!r}; there are {', '.join(STATE_NAMES)}")
    return tuple(STATE_NAMES.index(name) for name in names)
