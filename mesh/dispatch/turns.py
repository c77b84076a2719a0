"""Whose turn it is among the tasks that wait: by priority, then by fair shares, then by who came first.

Volatile: a new leader begins with equal shares. Shares are kept as in stride scheduling: each fairness key of a
capability has a mark that moves on with every grant, the slower the greater its weight, and whoever's is furthest back
goes next (Waldspurger & Weihl 1995). A key that had nothing to do does not save up.
"""

from collections.abc import Callable, Iterator, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from itertools import chain, islice

from mesh.ledger.queue import Demand, Lane, Queue
from mesh.ledger.settings import Settings
from mesh.ledger.task import Task

LANES_A_TURN_MAX = 1_000
"""Lanes looked at for one entry. Of more, others are looked at next time."""
MARKS_MAX = 10_000
STRIDE = 1_000_000

_Place = tuple[int, int, int, int, Lane, Task]
"""(effective priority, mark, order, number, lane, task): numbers are unique, so that lanes are never compared."""


class Turns:
    """One office's memory of who has had how much, and which lanes were looked at last."""

    def __init__(self) -> None:
        self._marks: dict[tuple[str, str], int] = {}
        self._now: dict[str, int] = {}
        """Of each capability: the mark of whoever was granted last."""
        self._next_lane = 0
        self.granted = 0

    def line(
        self,
        queue: Queue,
        offered: Mapping[str, None],
        at_ms: int,
        settings: Settings,
        is_open: Callable[[Lane], bool],
    ) -> "Line":
        """The lanes that may be granted from now, as they stand. `is_open` says which of those for what is offered."""
        return Line(self, queue, self._looked_at(queue, offered), at_ms, settings, is_open)

    def _looked_at(self, queue: Queue, offered: Mapping[str, None]) -> list[Lane]:
        """The lanes to be looked at this time. Clients name as many capabilities and keys as they like."""
        waiting = queue.by_capability
        few, many = (waiting, offered) if len(waiting) <= len(offered) else (offered, waiting)
        lanes = [lane for name in few if name in many for lane in waiting[name].values()]
        count = len(lanes)
        if count <= LANES_A_TURN_MAX:
            return lanes
        first = self._next_lane % count
        self._next_lane = first + LANES_A_TURN_MAX
        return list(islice(chain(islice(lanes, first, None), lanes), LANES_A_TURN_MAX))

    def mark(self, lane: Lane) -> int:
        """How far a lane's fairness key has come."""
        if not lane.fairness and not self._marks:
            return 0
        capability = lane.demand.capability
        return max(self._marks.get((capability, lane.fairness), 0), self._now.get(capability, 0))

    def had_one(self, lane: Lane, *, is_shared: bool) -> None:
        """A task of this lane was granted. `is_shared`: lanes with a fairness key stand in line."""
        self.granted += 1
        if not is_shared and not self._marks:
            return
        key = lane.demand.capability, lane.fairness
        mark = self.mark(lane)
        self._now[key[0]] = max(mark, self._now.get(key[0], 0))
        self._marks[key] = mark + STRIDE // max(lane.weight_permille, 1)
        if len(self._marks) > MARKS_MAX:
            self._forget()

    def _forget(self) -> None:
        """Let go of marks that say nothing any more; and of those that are the least ahead, if too many are left."""
        ahead = sorted((at - self._now[known[0]], known) for known, at in self._marks.items())
        last = ahead[-MARKS_MAX // 2 :]
        self._marks = {known: self._marks[known] for how_far, known in last if how_far > 0}


class Line:
    """The heads of all lanes, in the order they are to be granted, for one entry."""

    def __init__(
        self,
        turns: Turns,
        queue: Queue,
        lanes: list[Lane],
        at_ms: int,
        settings: Settings,
        is_open: Callable[[Lane], bool],
    ) -> None:
        self._turns = turns
        self._queue = queue
        self._at_ms = at_ms
        self._settings = settings
        self._is_open = is_open
        self._number = 0
        self._is_shared = False
        self._left_out: dict[Demand, None] = {}
        self._places: list[_Place] = []
        for lane in lanes:
            if queue.lane(lane.key) is lane and is_open(lane):
                self._places.append(self._place(lane))
                self._is_shared = self._is_shared or bool(lane.fairness)
        heapify(self._places)

    def _place(self, lane: Lane) -> _Place:
        settings = self._settings
        priority, order, task = lane.first(self._at_ms, settings.ageing_ms, settings.ageing_steps_max)
        self._number += 1
        return priority, self._turns.mark(lane), order, self._number, lane, task

    def next(self) -> tuple[Lane, Task] | None:
        """The lane whose turn it is, and its task; None if there is none."""
        places = self._places
        every = self._settings.oldest_every
        if places and every and self._turns.granted % every == every - 1:
            return self._oldest()
        while places:
            place = places[0]
            lane = place[4]
            if lane.demand in self._left_out:
                heappop(places)
                continue
            mark = self._turns.mark(lane)
            if mark != place[1]:  # Others with its fairness key have had turns since.
                heapreplace(places, (place[0], mark, *place[2:]))
                continue
            if not self._is_still_open(lane):
                heappop(places)
                continue
            return lane, place[5]
        return None

    def _oldest(self) -> tuple[Lane, Task] | None:
        """Of all that could be granted, whoever came first: so that nobody waits for ever."""
        lanes = [place[4] for place in self._places if place[4].demand not in self._left_out]
        lanes = [lane for lane in lanes if self._is_still_open(lane)]
        oldest = min(((lane.oldest(), lane) for lane in lanes), key=lambda pair: pair[0].order, default=None)
        return None if oldest is None else (oldest[1], oldest[0])

    def _is_still_open(self, lane: Lane) -> bool:
        """Whether others with its keys, who stand in other lanes, have left it room."""
        return (lane.concurrency is None and not lane.rates) or self._is_open(lane)

    def leave_out(self, lane: Lane) -> None:
        """Nobody is free for what such tasks demand."""
        self._left_out[lane.demand] = None

    def granted(self, lane: Lane) -> None:
        """The task given out last was taken from the queue: the next of its lane stands in line, if it may."""
        self._turns.had_one(lane, is_shared=self._is_shared)
        self.pass_over(lane)
        if self._queue.lane(lane.key) is lane and self._is_open(lane):
            heappush(self._places, self._place(lane))

    def pass_over(self, lane: Lane) -> None:
        """Nothing more of this lane for now."""
        places = self._places
        if places and places[0][4] is lane:
            heappop(places)
        else:
            self._places = [place for place in places if place[4] is not lane]
            heapify(self._places)

    def __iter__(self) -> Iterator[tuple[Lane, Task]]:
        while (turn := self.next()) is not None:
            yield turn
