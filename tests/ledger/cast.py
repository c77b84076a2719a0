"""The cast of the ledger's stories: ana and ben run tasks, the log decides. Index and time grow by one entry at a
time.
"""

from mesh.ids import FencingToken, LogIndex, NodeId, TaskId, Term
from mesh.ledger.applied import Applied
from mesh.ledger.commands import AdmitNode, Batch, Command, CompleteTask, FailAttempt, GrantLease, SubmitTask
from mesh.ledger.ledger import Ledger
from mesh.ledger.queue import Queue
from mesh.ledger.task import KIND_NAMES, STATE_NAMES, Task
from mesh.messages import TaskSpec
from mesh.wire.codec import encode

ANA, BEN = NodeId("ana"), NodeId("ben")
RESIZE, MAIL = TaskId("resize"), TaskId("mail")
TERM = Term(2)


class Log:
    """A ledger and the log that feeds it: each call is one entry, `at_ms` its time."""

    def __init__(self) -> None:
        self.ledger = Ledger()

    def apply(self, *commands: Command, at_ms: int | None = None) -> Applied:
        index = LogIndex(self.ledger.applied_index + 1)
        batch = Batch(1_000 * index if at_ms is None else at_ms, list(commands))
        return self.ledger.apply(index, TERM, batch, encode(batch))

    def state(self, task_id: TaskId) -> str:
        task = self.ledger.tasks.get(task_id) or self.ledger.changed.get(task_id)
        assert task is not None
        return STATE_NAMES[task.state]


def with_nodes(*nodes: NodeId) -> Log:
    """A log whose first entry admits these nodes, each in its first incarnation."""
    log = Log()
    log.apply(*(AdmitNode(node, 1) for node in nodes))
    return log


def take(queue: Queue, capability: str) -> Task:
    """The next task in line, taken out."""
    task = queue.first(capability)
    assert task is not None
    queue.take(task)
    return task


def spec(task_id: TaskId, *, payload: bytes = b"\x80", priority: int = 5, attempts_max: int = 3) -> TaskSpec:
    return TaskSpec(task_id, "image", payload, priority, attempts_max)


def submit(task_id: TaskId, *, payload: bytes = b"\x80", priority: int = 5, attempts_max: int = 3) -> SubmitTask:
    return SubmitTask(spec(task_id, payload=payload, priority=priority, attempts_max=attempts_max))


def grant(task_id: TaskId, node_id: NodeId) -> GrantLease:
    return GrantLease(task_id, node_id)


def complete(task_id: TaskId, token: int, result: bytes = b"\x01") -> CompleteTask:
    return CompleteTask(task_id, FencingToken(token), result)


def fail(task_id: TaskId, token: int, *, final: bool = False, jitter_permille: int = 0) -> FailAttempt:
    return FailAttempt(task_id, FencingToken(token), "ValueError: no", "Traceback", jitter_permille, final)


def kinds(applied: Applied) -> list[str]:
    """What happened, in order."""
    return [KIND_NAMES[happening.kind] for happening in applied.events]
