"""Exceptions a caller of mesh may catch.

MeshError
    TaskFailed          the task ended as a dead letter; carries the last error
    TaskCancelled       the task was cancelled
    TaskTimeout         waited long enough; the task goes on
    MeshUnavailable     no node reachable, or no quorum; outcome unknown unless the message says otherwise
    Backpressure        the mesh is full; try again after `retry_after` seconds
    Conflict            the id is taken by a task with another payload
    Unschedulable       no node offers the capability
    InvalidPayload      the payload cannot be sent: not serialisable, or too large
    NotFound            no such task, node or dead letter
    Refused             the mesh is healthy and said no

Not here: broken invariants. Those are `assert`, and they stop the node.
"""

from mesh.ids import NodeId, TaskId


class MeshError(Exception):
    """Whatever a mesh may answer instead of what was asked for."""


class TaskFailed(MeshError):
    """A task ended as a dead letter.

    Attributes:
        task_id: the task.
        error: one line, type and message of the last failure.
        remote_traceback: its traceback as text, as the node saw it; empty if there was none.
        node: where the last attempt ran; None if it never ran.
        attempt: number of attempts charged.
    """

    def __init__(
        self,
        task_id: TaskId,
        error: str,
        *,
        remote_traceback: str = "",
        node: NodeId | None = None,
        attempt: int = 0,
    ) -> None:
        super().__init__(f"{task_id} failed after {attempt} attempt(s): {error}")
        self.task_id = task_id
        self.error = error
        self.remote_traceback = remote_traceback
        self.node = node
        self.attempt = attempt


class TaskCancelled(MeshError):
    """A task was cancelled before it completed."""


class TaskTimeout(MeshError):
    """The wait ended before the task did. The task goes on."""


class MeshUnavailable(MeshError):
    """No node answered, or the nodes that answered have no quorum."""


class Backpressure(MeshError):
    """The mesh is full.

    Attributes:
        retry_after: seconds to wait before trying again.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Conflict(MeshError):
    """The task id belongs to a task with another capability or payload."""


class Unschedulable(MeshError):
    """No node offers what the task needs."""


class InvalidPayload(MeshError):
    """The payload cannot leave this client: not serialisable as MessagePack, or over the bound."""


class NotFound(MeshError):
    """No such task, node or dead letter."""


class Refused(MeshError):
    """The mesh understood, and said no; the message says why and what to try."""
