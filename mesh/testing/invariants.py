"""What must hold of a mesh at any moment, checked from outside: tables, events, what attempts and clients know."""

from collections.abc import Iterator, Mapping

import msgspec

from mesh.client import Handle
from mesh.ids import FencingToken, TaskId
from mesh.ledger.task import COMPLETED, FINISHED, STATE_NAMES, Happening, Kind, Task
from mesh.node import Node
from mesh.testing.local_mesh import LocalMesh
from mesh.wire.codec import encode

_ENDS = frozenset({Kind.TASK_COMPLETED, Kind.TASK_CANCELLED, Kind.TASK_DROPPED})


def broken(mesh: LocalMesh, accepted: Mapping[TaskId, Handle]) -> list[str]:
    """What does not hold, a sentence each; nothing if all is well.

    Args:
        mesh: to be watched from its start on.
        accepted: every task that a client was told is accepted, with its handle.
    """
    happenings = mesh.happenings()
    nodes = [mesh.node(node_id) for node_id in mesh.node_ids if mesh.is_up(node_id)]
    return [
        *(f"a node broke of its own accord: {error!r}" for error in mesh.broken),
        *_lost(nodes or [node for node in [mesh.freshest] if node is not None], accepted, happenings),
        *_ended_twice(happenings),
        *_told_otherwise(mesh, accepted),
        *_stale(mesh, happenings),
        *_tables_differ(nodes, mesh.freshest),
    ]


def _lost(nodes: list[Node], accepted: Mapping[TaskId, Handle], happenings: list[Happening]) -> Iterator[str]:
    """What was accepted is in every table that has come that far. It may be forgotten once it has ended."""
    ended = {one.task_id for one in happenings if one.kind in _ENDS}
    for node in nodes:
        ledger = node.ledger
        for task_id, handle in accepted.items():
            is_there = task_id in ledger.tasks or task_id in ledger.finished or task_id in ended
            if handle.index <= ledger.applied_index and not is_there:
                yield f"{task_id}, accepted at log index {handle.index}, is lost: {node.node_id} has no such task"


def _ended_twice(happenings: list[Happening]) -> Iterator[str]:
    """A task ends once, and nothing happens to it any more, unless its id is submitted again."""
    ends: dict[TaskId, Happening] = {}
    for one in happenings:
        if one.kind == Kind.TASK_SUBMITTED:
            ends.pop(one.task_id, None)
        elif one.kind in _ENDS:
            before = ends.setdefault(one.task_id, one)
            if before is not one:
                yield (
                    f"{one.task_id} has two outcomes: {_name(before)} at log index {before.index}, "
                    f"{_name(one)} at {one.index}"
                )


def _told_otherwise(mesh: LocalMesh, accepted: Mapping[TaskId, Handle]) -> Iterator[str]:
    """What a client was told of a task's end is what stands in the table. A dead letter may have gone on since."""
    for task_id, handle in accepted.items():
        end, task = handle.end, mesh.look_up(task_id)
        if end is None or task is None or end.state not in FINISHED:
            continue
        if task.state != end.state:
            yield f"a client was told that {task_id} is {STATE_NAMES[end.state]}, and it is {STATE_NAMES[task.state]}"
        elif end.state == COMPLETED and end.result != task.result:
            yield f"a client was told another result of {task_id} than the table has"


def _stale(mesh: LocalMesh, happenings: list[Happening]) -> Iterator[str]:
    """A task is completed by the holder of its latest lease, with the result its attempt came to there."""
    granted: dict[TaskId, FencingToken] = {}
    for one in happenings:
        latest = granted.get(one.task_id)
        if one.kind == Kind.TASK_DISPATCHED:
            if latest is not None and one.token <= latest:
                yield f"{one.task_id} was granted under token {one.token} after token {latest}"
            granted[one.task_id] = one.token
        elif one.kind == Kind.TASK_COMPLETED:
            if latest is not None and one.token != latest:
                yield f"{one.task_id} was completed under token {one.token}, which is stale: the latest is {latest}"
            yield from _forged(mesh, one)


def _forged(mesh: LocalMesh, completion: Happening) -> Iterator[str]:
    task = mesh.look_up(completion.task_id)
    if task is None or task.state != COMPLETED or task.token != completion.token:
        return
    outcome = mesh.outcome(completion.task_id, completion.token)
    if outcome is None or outcome.error or outcome.result != task.result:
        yield (
            f"{completion.task_id} has a result that its attempt under token {completion.token} on "
            f"{completion.node_id} did not come to"
        )


def _tables_differ(nodes: list[Node], freshest: Node | None) -> Iterator[str]:
    """Digests agree at every index that two nodes have both applied; whole tables where they stand at the same."""
    if freshest is None:
        return
    for node in nodes:
        index = min(node.ledger.applied_index, freshest.ledger.applied_index)
        mine, theirs = freshest.ledger.digests.get(index), node.ledger.digests.get(index)
        if mine is not None and theirs is not None and mine != theirs:
            yield f"{node.node_id} and {freshest.node_id} have applied different logs up to index {index}"
        elif node.ledger.applied_index == freshest.ledger.applied_index:
            yield from _tasks_differ(node, freshest)
        if node.counters.get("tables_differ"):
            yield f"{node.node_id} has heard of another table than its own"


def _tasks_differ(node: Node, freshest: Node) -> Iterator[str]:
    mine, theirs = freshest.ledger, node.ledger
    for task_id in sorted({*mine.tasks, *theirs.tasks, *mine.finished, *theirs.finished}):
        same = mine.finished.get(task_id) == theirs.finished.get(task_id)
        if not same or _record(mine.tasks.get(task_id)) != _record(theirs.tasks.get(task_id)):
            yield f"{node.node_id} and {freshest.node_id} disagree about {task_id} at log index {theirs.applied_index}"


def _record(task: Task | None) -> bytes:
    """A task as every node must have it: without the mark of the queue, which is each node's own."""
    return b"" if task is None else encode(msgspec.structs.replace(task, ticket=0))


def _name(happening: Happening) -> str:
    return Kind(happening.kind).name.lower().removeprefix("task_")
