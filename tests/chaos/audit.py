"""Reads what the mesh has on record: its events as they come, and at the end its tables, node by node."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from mesh.client.connection import MeshClient
from mesh.documents import RaftStatus, Status
from mesh.errors import MeshError, TaskFailed
from mesh.messages import Question
from tests.chaos.expect import COMPLETED
from tests.chaos.fleet import Fleet
from tests.chaos.history import Glance, History, Run
from tests.chaos.one_node import OneNode

PAGE = 1_000
ASK_AT_ONCE = 64
LINE_WORDS = 5
LOOKED_AT_MAX = 10_000


class Audit:
    """Follows the committed events by their index, from whichever node answers."""

    def __init__(self, fleet: Fleet, history: History) -> None:
        self._fleet = fleet
        self._history = history
        self.cursor = 0
        self.counts: dict[str, int] = {}

    async def follow(self, until: Callable[[], bool]) -> None:
        """Keep up while the run goes on; what is missed is read by `finish`."""
        while not until():
            try:
                async with self._fleet.client(timeout=5) as client:
                    while not until():
                        if not await self._read(client, stale=True):
                            await asyncio.sleep(0.3)
            except MeshError:
                await asyncio.sleep(0.2)

    async def finish(self, client: MeshClient, timeout_s: float) -> None:
        """Read to the end of what is committed. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while await self._read(client, stale=False):
                pass

    async def _read(self, client: MeshClient, *, stale: bool) -> bool:
        """One page. False if there was nothing new."""
        page = await client.event_page(str(self.cursor), limit=PAGE, stale=stale, timeout=10)
        history = self._history
        last = self.cursor
        for line in page.events:
            if line.index < last:
                history.events_went_back += 1
            last = max(last, line.index)
            self.counts[line.event] = self.counts.get(line.event, 0) + 1
            if line.event == "task_completed":
                history.completions.setdefault(line.task or "", []).append(line.token)
            elif line.event == "task_dead":
                history.deaths[line.task or ""] = history.deaths.get(line.task or "", 0) + 1
            elif line.event == "completion_fenced":
                history.fenced += 1
        before, self.cursor = self.cursor, int(page.next or self.cursor)
        return self.cursor > before


async def settle(fleet: Fleet, client: MeshClient, timeout_s: float) -> str:
    """Wait until every task has ended. Returns why not, if they do not."""
    deadline, seen = time.monotonic() + timeout_s, "no node answered"
    while time.monotonic() < deadline:
        try:
            status = await client.status(timeout=2)
        except MeshError as error:
            seen = str(error)
            continue
        tasks = status.tasks
        waiting = tasks.pending + tasks.scheduled + tasks.blocked + tasks.running + tasks.paused
        health = {node.id: node.health for node in status.nodes}
        pids = {node.id: node.pid for node in status.nodes}
        sick = [node for node in fleet.started if health.get(node) != "healthy" or pids[node] != fleet.pid(node)]
        if status.leader and not status.stale and not waiting and not sick:
            return ""
        seen = f"after {timeout_s:g} s: leader {status.leader}, {waiting} tasks have not ended, {health}"
        await asyncio.sleep(0.1)
    return seen


async def read_states(client: MeshClient, history: History) -> None:
    """The list of all tasks, page by page."""
    after = ""
    while True:
        page = await client.tasks(after=after, limit=PAGE, timeout=30)
        history.states.update((task.id, task.state) for task in page.tasks)
        if not page.next:
            return
        assert page.next > after, "a list that goes on gets further"
        after = page.next


async def look_again(fleet: Fleet, client: MeshClient, history: History, timeout_s: float) -> None:
    """Is what seems to be missing really not there, or was it only not shown? The two have different causes."""
    unseen = [
        task for task, state in history.states.items() if state == COMPLETED and not history.completions.get(task)
    ]
    if unseen:
        fresh = History()
        await Audit(fleet, fresh).finish(client, timeout_s)
        shown = [task for task in unseen if fresh.completions.get(task)]
        if shown:
            history.left_out["the stream of events"] = shown
            history.completions, history.deaths, history.fenced = fresh.completions, fresh.deaths, fresh.fenced
    unlisted = []
    for task_id in [task for task in history.acked if task not in history.states][:LOOKED_AT_MAX]:
        try:
            history.states[task_id] = (await client.task(task_id, timeout=10)).state
            unlisted.append(task_id)
        except MeshError:
            pass  # It is lost.
    if unlisted:
        history.left_out["the list of tasks"] = unlisted


async def ask_for_results(client: MeshClient, history: History, *, sample: int) -> None:
    """What no client was told, and a sample of what was: does the table say the same?"""
    untold = [task for task, want in history.acked.items() if task not in history.results and want.value]
    told = list(history.results)
    stride = max(1, len(told) // max(1, sample))
    gate = asyncio.Semaphore(ASK_AT_ONCE)

    async def ask(task_id: str) -> None:
        async with gate:
            try:
                result = await client.handle(task_id).result(timeout=30)
            except TaskFailed as error:
                history.broken.append(f"{task_id} failed: {error}")
                return
            except MeshError:
                return  # That it is lost, or has not ended, is seen elsewhere.
        before = history.results.setdefault(task_id, result)
        if before != result:
            history.broken.append(f"{task_id} gave {before!r} first and {result!r} later")

    await asyncio.gather(*(ask(task_id) for task_id in untold + told[::stride]))


async def look_at_tables(fleet: Fleet, history: History, timeout_s: float) -> None:
    """Each node by itself: until all have come to one index, what digest do they have there?"""
    deadline = time.monotonic() + timeout_s
    glances: list[Glance] = []
    while time.monotonic() < deadline:
        glances = []
        for node in fleet.started:
            one = OneNode(fleet.nodes[node].address, fleet.secret_file)
            try:
                raft = await one.ask(RaftStatus, Question.RAFT, 5)
                status = await one.ask(Status, Question.STATUS, 5)
            except MeshError as error:
                glances.append(Glance(node, -1, str(error)))
                continue
            finally:
                one.close()
            assert raft.node == node, "the node that was asked answers"
            glances.append(Glance(node, raft.applied_index, raft.digest))
            history.tables_differ[node] = status.counters.get("tables_differ", 0)
        if len({glance.index for glance in glances}) == 1 and glances[0].index > 0:
            history.glances = glances
            return
        await asyncio.sleep(0.2)
    history.broken.append(f"the nodes did not come to one index within {timeout_s:g} s: {glances}")


def read_trace(path: Path, history: History) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if len(words) == LINE_WORDS:
            history.runs.append(Run(words[0], int(words[1]), int(words[2]), words[3], words[4]))
