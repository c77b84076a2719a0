"""The queue as a whole, counted once at the end: what went in must come out, once, and in turn.

After Jepsen's total-queue and set-full, in linear time. Losses are told apart by where they lie among what was
accepted, because each points to another cause: the first ones (a table that was trimmed or replaced), some in the
middle (a member that came back without them), the last ones (promises made before they were durable).
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from mesh.ids import TaskId


class Loss(Enum):
    """Where the lost ones lie among the accepted ones, in the order of their acceptance."""

    NONE = "none"
    PREFIX = "the first ones"
    MIDDLE = "some in the middle"
    POSTFIX = "the last ones"
    ALL = "all"


class Count(NamedTuple):
    """What became of all tasks.

    `lost`: accepted, and neither ended nor there. `unexpected`: there, though nobody asked. `duplicated`: ended more
    than once with a result. `recovered`: ended, though nobody was told that it was accepted; no harm.
    """

    lost: tuple[TaskId, ...]
    loss: Loss
    unexpected: tuple[TaskId, ...]
    duplicated: tuple[TaskId, ...]
    recovered: tuple[TaskId, ...]


class Grant(NamedTuple):
    """A lease, in the order of the log. `stream`: those that are served in turn. `entry` numbers the entries it could
    have been in; before `since` whoever granted did not know that the task stands in this stream.
    """

    task_id: TaskId
    stream: Hashable
    entry: int = 0
    since: int = 0


def total_queue(
    asked: Iterable[TaskId], accepted: Sequence[TaskId], there: Iterable[TaskId], completed: Iterable[TaskId]
) -> Count:
    """Count.

    Args:
        asked: whatever any client submitted.
        accepted: what any was told is accepted, in that order.
        there: ids the mesh knows in the end, in whatever state.
        completed: one id for each result that was accepted.
    """
    known, wanted, promised = set(there), set(asked), set(accepted)
    times: dict[TaskId, int] = {}
    for task_id in completed:
        times[task_id] = times.get(task_id, 0) + 1
    gone = [number for number, task_id in enumerate(accepted) if task_id not in known]
    return Count(
        lost=tuple(accepted[number] for number in gone),
        loss=_where(gone, len(accepted)),
        unexpected=tuple(sorted(known - wanted)),
        duplicated=tuple(task_id for task_id, count in times.items() if count > 1),
        recovered=tuple(task_id for task_id in times if task_id not in promised),
    )


def _where(gone: list[int], count: int) -> Loss:
    """A run at the beginning, a run at the end, or neither."""
    if not gone:
        return Loss.NONE
    if len(gone) == count:
        return Loss.ALL
    is_run = gone[-1] - gone[0] == len(gone) - 1
    if is_run and gone[0] == 0:
        return Loss.PREFIX
    return Loss.POSTFIX if is_run and gone[-1] == count - 1 else Loss.MIDDLE


class Stay(Enum):
    """What the reads say of one member of a set that only grows."""

    STABLE = "in every read that began after it was accepted"
    STALE = "missing in some such read, but in a later one again"
    LOST = "missing from some such read on"
    NEVER_READ = "in no read, and no read began after it was accepted"


class Reading(NamedTuple):
    """One read of all members. `began` numbers it among all that happened."""

    began: int
    members: frozenset[TaskId]


def set_full(accepted: Mapping[TaskId, int], reads: Sequence[Reading]) -> dict[TaskId, Stay]:
    """How every accepted member fared (`accepted`: when it was told to be), over reads in the order they began."""
    stays: dict[TaskId, Stay] = {}
    for task_id, since in accepted.items():
        seen = [task_id in read.members for read in reads if read.began > since]
        if all(seen):
            stays[task_id] = Stay.STABLE if seen else Stay.NEVER_READ
        else:
            stays[task_id] = Stay.STALE if seen[-1] else Stay.LOST
    return stays


def out_of_turn(places: Mapping[TaskId, int], grants: Iterable[Grant]) -> tuple[TaskId, TaskId] | None:
    """The first task that was granted after one of its stream which came later, and that one; None if there is none.

    Args:
        places: where in the log each task came in. Tasks that are not here had their turn disturbed and do not count.
        grants: all leases. Only the first of a task counts.
    """
    latest: dict[Hashable, tuple[int, TaskId]] = {}
    served: dict[Hashable, list[tuple[int, int, TaskId]]] = {}
    seen: set[TaskId] = set()
    for task_id, stream, entry, since in grants:
        place = places.get(task_id)
        if place is None or task_id in seen:
            continue
        seen.add(task_id)
        before = served.setdefault(stream, [])
        if since:
            last = max(((known, other) for at, known, other in before if at >= since), default=None)
        else:
            last = latest.get(stream)
        if last is not None and place < last[0]:
            return task_id, last[1]
        before.append((entry, place, task_id))
        latest[stream] = max((place, task_id), latest.get(stream, (place, task_id)))
    return None
