"""The cast of the ledger's stories: ana and ben run tasks, the log decides. Index and time grow by one entry at a
time.
"""

from collections.abc import Mapping

from mesh.durable import TaskRow, without_gaps
from mesh.ids import FencingToken, LogIndex, NodeId, TaskId, Term
from mesh.ledger.applied import Applied
from mesh.ledger.commands import (
    AdmitNode,
    Batch,
    Command,
    CompleteTask,
    FailAttempt,
    GrantLease,
    RaiseLevel,
    StartTask,
    SubmitTask,
)
from mesh.ledger.intake import Intake, whole
from mesh.ledger.ledger import Ledger
from mesh.ledger.queue import Queue
from mesh.ledger.task import KIND_NAMES, STATE_NAMES, Kind, Task
from mesh.messages import Failure, TaskSpec
from mesh.node.behind import row
from mesh.options import Options
from mesh.wire.codec import decode_summary, decode_task, encode

ANA, BEN = NodeId("ana"), NodeId("ben")
RESIZE, MAIL = TaskId("resize"), TaskId("mail")
TERM = Term(2)


class Log:
    """A ledger and the log that feeds it: each call is one entry, `at_ms` its time."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger = ledger or Ledger()

    def apply(self, *commands: Command, at_ms: int | None = None) -> Applied:
        index = LogIndex(self.ledger.applied_index + 1)
        batch = Batch(1_000 * index if at_ms is None else at_ms, list(commands))
        return self.ledger.apply(index, TERM, batch, encode(batch))

    def now(self, at_ms: int) -> "Log":
        """An entry in which nothing happens but that time goes on."""
        self.apply(at_ms=at_ms)
        return self

    def state(self, task_id: TaskId) -> str:
        task = self.ledger.tasks.get(task_id) or self.ledger.changed.get(task_id)
        assert task is not None
        return STATE_NAMES[task.state]


class Shelf:
    """What a ledger store holds of a table: rows and summary, as bytes. Brought up to date by `write`."""

    def __init__(self) -> None:
        self.rows: dict[TaskId, TaskRow] = {}
        self.mark = (LogIndex(0), TERM, b"", encode(Ledger().summary()))

    def write(self, ledger: Ledger) -> "Shelf":
        changes = ledger.take_changes()
        for task_id in changes.forgotten:
            self.rows.pop(task_id, None)
        self.rows |= {task.task_id: row(task) for task in changes.tasks}
        self.mark = ledger.applied_index, Term(ledger.applied_term), ledger.digest, encode(ledger.summary())
        return self

    def started(self) -> Ledger:
        """The table as a node finds it at start: rows by when they were written first, finished ones by number."""
        summary = decode_summary(self.mark[3])
        live = [decode_task(kept.record) for kept in self.rows.values() if not kept.finished]
        done = sorted((kept for kept in self.rows.values() if kept.finished), key=lambda kept: kept.finished)
        finished = without_gaps((kept.task_id, kept.finished, kept.fingerprint) for kept in done)
        last = done[-1].finished if done else 0
        ledger = Ledger()
        ledger.restore(*self.mark[:3], summary, whole(live, finished, last))
        return ledger

    def handed_over(self, before: Mapping[TaskId, TaskRow] | None = None) -> Ledger:
        """The table as a node receives it from the leader: page by page, in order of ids, two rows a page. It has got
        the rows `before` from another leader, who did not get to the end.
        """
        intake = Intake()
        earlier = {} if before is None else before
        rows = [earlier[task_id] for task_id in sorted(earlier)]
        rows += [self.rows[task_id] for task_id in sorted(self.rows)]
        for start in range(0, len(rows), 2):
            page = rows[start : start + 2]
            intake.add(decode_task(kept.record) for kept in page if not kept.finished)
            for kept in page:
                if kept.finished:
                    intake.add_finished(kept.finished, kept.task_id, kept.fingerprint)
        ledger = Ledger()
        ledger.restore(*self.mark[:3], decode_summary(self.mark[3]), intake)
        return ledger


def with_nodes(*nodes: NodeId) -> Log:
    """A log whose first entry admits these nodes, each in its first incarnation."""
    log = Log()
    log.apply(*(AdmitNode(node, 1) for node in nodes))
    return log


def levelled(*nodes: NodeId) -> Log:
    """The same, and the mesh is at the latest level."""
    log = with_nodes(*nodes)
    log.apply(RaiseLevel(1))
    return log


def take(queue: Queue, capability: str) -> Task:
    """The next task in line, taken out."""
    task = queue.first(capability)
    assert task is not None
    queue.take(task)
    return task


def spec(
    task_id: TaskId,
    *,
    payload: bytes = b"\x80",
    priority: int = 5,
    attempts_max: int = 3,
    options: Options | None = None,
    capability: str = "image",
    not_before_ms: int = 0,
) -> TaskSpec:
    return TaskSpec(task_id, capability, payload, priority, attempts_max, not_before_ms, options=options)


def submit(
    task_id: TaskId,
    *,
    payload: bytes = b"\x80",
    priority: int = 5,
    attempts_max: int = 3,
    options: Options | None = None,
    capability: str = "image",
) -> SubmitTask:
    return SubmitTask(
        spec(
            task_id,
            payload=payload,
            priority=priority,
            attempts_max=attempts_max,
            options=options,
            capability=capability,
        )
    )


def grant(task_id: TaskId, node_id: NodeId) -> GrantLease:
    return GrantLease(task_id, node_id)


def complete(task_id: TaskId, token: int, result: bytes = b"\x01") -> CompleteTask:
    return CompleteTask(task_id, FencingToken(token), result)


def fail(
    task_id: TaskId,
    token: int,
    *,
    final: bool = False,
    jitter_permille: int = 0,
    error: str = "ValueError: no",
    failure: Failure = Failure.HANDLER,
) -> FailAttempt:
    return FailAttempt(task_id, FencingToken(token), error, "Traceback", jitter_permille, final, failure)


def start(task_id: TaskId, token: int) -> StartTask:
    return StartTask(task_id, FencingToken(token))


def kinds(applied: Applied) -> list[str]:
    """What happened, in order."""
    return [KIND_NAMES[happening.kind] for happening in applied.events]


def details(applied: Applied, kind: Kind) -> list[str]:
    """What was said of what happened of this kind."""
    return [happening.detail for happening in applied.events if happening.kind == kind]
