"""Exceptions a caller of mesh may catch.

MeshError
    TaskFailed          the task ended as a dead letter; carries the last error
        Unschedulable   because no node that might run it was found in time
    TaskCancelled       the task was cancelled
    TaskTimeout         waited long enough; the task goes on
    MeshUnavailable     no node reachable, or no quorum; outcome unknown unless the message says otherwise
    Backpressure        the mesh is full; try again after `retry_after` seconds
    Conflict            the id is taken by a task with another payload
    InvalidPayload      what was given cannot be sent: not serialisable, too large, or an option that cannot be
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

    _sentence = "{task_id} failed after {attempt} attempt(s): {error}"

    def __init__(
        self,
        task_id: TaskId,
        error: str,
        *,
        remote_traceback: str = "",
        node: NodeId | None = None,
        attempt: int = 0,
    ) -> None:
        super().__init__(self._sentence.format(task_id=task_id, attempt=attempt, error=error))
        self.task_id = task_id
        self.error = error
        self.remote_traceback = remote_traceback
        self.node = node
        self.attempt = attempt


class Unschedulable(TaskFailed):
    """A task is a dead letter because no attempt began within its `schedule_timeout`; `error` says what it lacked."""

    _sentence = "{task_id} found no node to run on in time: {error}"


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


class InvalidPayload(MeshError):
    """What was given cannot leave this client: a payload that is not serialisable or over the bound, a name, number,
    duration or other option that cannot be, or options that exclude each other.
    """


class NotFound(MeshError):
    """No such task, node or dead letter."""


class Refused(MeshError):
    """The mesh understood, and said no; the message says why and what to try."""
