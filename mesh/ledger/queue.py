"""Tasks that wait for a lease, in the order they will get one.

They stand in lanes. Tasks of one lane may be granted to the same nodes, under the same limits, so that where the first
of them cannot be granted, none can. Most lanes are a capability. Inside one the lower priority number goes first, then
the place in the log; waiting makes a task more urgent (research E.9).

Derived from the table and rebuilt from it; every node keeps it, so that a new leader dispatches at once. Each push
hands the task a ticket. Entries are removed lazily: one counts only while its task still waits and still holds that
very ticket. Once those that do not count are the greater part, all of them go.
"""

from collections.abc import Iterator
from heapq import heappop, heappush

import msgspec

from mesh.ledger.task import PENDING, SCHEDULED, Task
from mesh.messages import TaskSpec
from mesh.options import Concurrency, Labels, Options, Rate

Entry = tuple[int, int, int, Task]
"""(priority or due time, order, ticket, task). Tickets are unique, so tasks are never compared."""

POSITIONS_MAX = 10_000
STALE_MIN = 64
"""As many entries that do not count are always put up with."""
RUNGS_MIN, RUNGS_MAX = -1, 256
"""Priorities beyond share a rung, so that a lane has few of them; on those two the priority counts before the order."""
AGEING_PRIORITY_MIN = 2
"""Waiting makes no task more urgent than this: priorities 0 and 1 are for what really is."""


class Demand(msgspec.Struct, frozen=True):
    """What a node must be like. Tasks that demand the same of it have the same candidates."""

    capability: str
    require: Labels = ()
    avoid: Labels = ()
    version: str = ""
    sticky: str = ""
    """Only the node that was last granted a task with this word, as long as there is one."""


class Lane:
    """Waiting tasks that stand and fall together."""

    __slots__ = ("concurrency", "demand", "fairness", "key", "rates", "rungs", "weight_permille")

    def __init__(self, key: "LaneKey", spec: TaskSpec) -> None:
        options = spec.options
        self.key = key
        self.demand = Demand(spec.capability) if options is None else demand(spec.capability, options)
        self.fairness = ""
        self.weight_permille = 1_000
        self.concurrency: Concurrency | None = None
        self.rates: tuple[Rate, ...] = ()
        if options is not None:
            self.fairness, self.weight_permille = options.fairness, options.weight_permille
            self.concurrency, self.rates = options.concurrency, options.rates
        self.rungs: dict[int, list[Entry]] = {}
        """Heaps by priority. None of them is empty."""

    def first(self, at_ms: int, ageing_ms: int, steps_max: int) -> tuple[int, int, Task]:
        """The task to be granted next: its effective priority, its order, itself. The lane has been cleaned."""
        best: tuple[int, int, Task] | None = None
        for heap in self.rungs.values():
            priority, order, _, task = heap[0]
            if ageing_ms and priority > AGEING_PRIORITY_MIN:
                ready_ms = task.not_before_ms if task.not_before_ms > task.submitted_at_ms else task.submitted_at_ms
                steps = min((at_ms - ready_ms) // ageing_ms, steps_max)
                if steps > 0:
                    priority = max(priority - steps, AGEING_PRIORITY_MIN)
            if best is None or priority < best[0] or (priority == best[0] and order < best[1]):
                best = priority, order, task
        assert best is not None, "a lane that is kept holds a task"
        return best

    def oldest(self) -> Task:
        """Of the first on each rung, the one that came first. The lane has been cleaned."""
        task: Task = min((heap[0] for heap in self.rungs.values()), key=_order)[3]
        return task


LaneKey = str | tuple[Demand, str, int, str, Concurrency | None, tuple[Rate, ...]]
"""A capability; or demand, fairness key and weight, fallback, concurrency and rates, where a task has any of these."""


def demand(capability: str, options: Options) -> Demand:
    """What such a task demands of a node."""
    sticky = options.sticky if options.is_sticky_hard else ""
    return Demand(capability, options.require, options.avoid, options.version, sticky)


def lane_key(spec: TaskSpec) -> LaneKey:
    """Which lane a task stands in."""
    options = spec.options
    if options is None or not (
        options.concurrency is not None
        or options.rates
        or options.fairness
        or options.fallback not in ("", spec.capability)
        or options.require
        or options.avoid
        or options.version
        or options.is_sticky_hard
    ):
        return spec.capability
    wanted = demand(spec.capability, options)
    fallback = "" if options.fallback == spec.capability else options.fallback
    return wanted, options.fairness, options.weight_permille, fallback, options.concurrency, options.rates


class Queue:
    """Waiting tasks by lane, and those whose time has not come."""

    def __init__(self) -> None:
        self.lanes: dict[LaneKey, Lane] = {}
        """Of which some task is ready. None is empty: lanes are named by clients, and are as many as they like."""
        self.by_capability: dict[str, dict[LaneKey, Lane]] = {}
        """The same lanes."""
        self._later: list[Entry] = []
        self._tickets = 0
        self._entries = 0
        self._waiting = 0
        """Tasks with a ticket: as many entries count."""

    def push(self, task: Task) -> None:
        """A task waits for a lease. Pushing one that is already here changes nothing."""
        if task.ticket:
            return
        self._tickets += 1
        task.ticket = self._tickets
        self._waiting += 1
        self._entries += 1
        if task.state == SCHEDULED:
            heappush(self._later, (task.not_before_ms, task.order, task.ticket, task))
        else:
            self._push_ready(task)

    def remove(self, task: Task) -> None:
        """The task waits no more. Its entry goes when it comes to the front, or with many others."""
        if not task.ticket:
            return
        task.ticket = 0
        self._waiting -= 1
        lane = self.lanes.get(lane_key(task.spec))
        if lane is not None:
            self._clean(lane)
        if self._entries > 2 * self._waiting + STALE_MIN:
            self.rebuild([entry[3] for entry in self._all() if _is_valid(entry)])

    def release_due(self, at_ms: int) -> None:
        """Move tasks whose time has come among the ready ones."""
        later = self._later
        while later and later[0][0] <= at_ms:
            entry = heappop(later)
            if _is_valid(entry):
                self._push_ready(entry[3])
            else:
                self._entries -= 1

    def next_due_ms(self) -> int | None:
        """When (epoch) the next task's time comes; None if none waits for a time."""
        later = self._later
        while later and not _is_valid(later[0]):
            heappop(later)
            self._entries -= 1
        return later[0][0] if later else None

    def lane(self, key: LaneKey) -> Lane | None:
        """A lane of which some task is ready, cleaned; None if none is."""
        lane = self.lanes.get(key)
        return lane if lane is not None and self._clean(lane) else None

    def first(self, capability: str) -> Task | None:
        """The next of the tasks that ask for nothing but a capability, waiting not counted; None if none is ready."""
        lane = self.lane(capability)
        return None if lane is None else lane.first(0, 0, 0)[2]

    def take(self, task: Task) -> None:
        """Take a task that is the first of its rung, as `Lane.first` and `Lane.oldest` give it. It stays out until
        pushed again.
        """
        lane = self.lanes[lane_key(task.spec)]
        rung = _rung(task.spec.priority)
        heap = lane.rungs[rung]
        taken = heappop(heap)[3]
        assert taken is task, "taken from the front"
        task.ticket = 0
        self._entries -= 1
        self._waiting -= 1
        if not heap:
            del lane.rungs[rung]
        self._clean(lane)

    def position(self, task: Task) -> int:
        """How many ready tasks of the same lane come before this one, waiting not counted; POSITIONS_MAX if they are as
        many or more.

        Looks only at those, from the front of the heaps down: nothing below an entry comes before it.
        """
        lane = self.lanes.get(lane_key(task.spec))
        mine = (task.spec.priority, task.order)
        before = 0
        for heap in lane.rungs.values() if lane is not None else ():
            places = [0]
            while places and before < POSITIONS_MAX:
                place = places.pop()
                if place < len(heap) and heap[place][:2] < mine:
                    before += _is_valid(heap[place])
                    places += (2 * place + 1, 2 * place + 2)
        return before

    def rebuild(self, tasks: list[Task]) -> None:
        """Start afresh from these tasks."""
        self.lanes.clear()
        self.by_capability.clear()
        self._later.clear()
        self._entries = self._waiting = 0
        for task in tasks:
            task.ticket = 0
            if task.state in (PENDING, SCHEDULED):
                self.push(task)

    def heaps(self) -> list[list[Entry]]:
        """What the queue consists of, to be let go of when nobody needs it any more."""
        return [self._later, *(heap for lane in self.lanes.values() for heap in lane.rungs.values())]

    def ready(self) -> Iterator[Task]:
        """All tasks that are ready, lane by lane, in no order."""
        for lane in self.lanes.values():
            for heap in lane.rungs.values():
                for entry in heap:
                    if _is_valid(entry):
                        yield entry[3]

    def _clean(self, lane: Lane) -> bool:
        """Entries that do not count leave the front of each rung. False if nothing is left: then the lane goes."""
        empty: list[int] = []
        for rung, heap in lane.rungs.items():
            while heap and not _is_valid(heap[0]):
                heappop(heap)
                self._entries -= 1
            if not heap:
                empty.append(rung)
        for rung in empty:
            del lane.rungs[rung]
        if not lane.rungs:
            self._close(lane)
            return False
        return True

    def _open(self, key: LaneKey, spec: TaskSpec) -> Lane:
        lane = self.lanes[key] = Lane(key, spec)
        self.by_capability.setdefault(spec.capability, {})[key] = lane
        return lane

    def _close(self, lane: Lane) -> None:
        del self.lanes[lane.key]
        lanes = self.by_capability[lane.demand.capability]
        del lanes[lane.key]
        if not lanes:
            del self.by_capability[lane.demand.capability]

    def _all(self) -> Iterator[Entry]:
        for heap in self.heaps():
            yield from heap

    def _push_ready(self, task: Task) -> None:
        spec = task.spec
        key = spec.capability if spec.options is None else lane_key(spec)
        lane = self.lanes.get(key)
        if lane is None:
            lane = self._open(key, spec)
        rung = _rung(spec.priority)
        heap = lane.rungs.get(rung)
        if heap is None:
            heap = lane.rungs[rung] = []
        heappush(heap, (spec.priority, task.order, task.ticket, task))


def _rung(priority: int) -> int:
    return min(max(priority, RUNGS_MIN), RUNGS_MAX)


def _order(entry: Entry) -> int:
    return entry[1]


def _is_valid(entry: Entry) -> bool:
    task = entry[3]
    return task.ticket == entry[2] and task.state <= SCHEDULED
