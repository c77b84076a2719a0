"""The task table: what every conversation of this room reads and changes, and how it is kept and found again.

Live tasks and dead letters stay in memory. A finished task leaves memory for the ledger store once its row is written;
only its id and fingerprint stay, for the last FINISHED_MAX of them, so that a repeated submit or report is still
recognised.
"""

from collections import deque

from mesh.config import FINISHED_MAX
from mesh.ids import FencingToken, LogIndex, NodeId, TaskId
from mesh.ledger.applied import Applied
from mesh.ledger.digest import EMPTY, fingerprint
from mesh.ledger.intake import Intake, Leftovers
from mesh.ledger.queue import Queue
from mesh.ledger.registry import Breaker, Cron, Pause, Registry, Window
from mesh.ledger.settings import Settings
from mesh.ledger.task import COMPLETED, DEAD, DISPATCHED, RUNNING, STATE_NAMES, Happening, NodeRecord, Task
from mesh.ledger.treated import Treated
from mesh.messages import TaskSpec, payload_crc

DIGESTS_MAX = 1_024
OUT_OF_OFFICE = Applied(LogIndex(0), 0, bytearray())


class Table:
    """State of the ledger. Changed only while an entry is applied, by the functions of this room."""

    def __init__(self) -> None:
        self.tasks: dict[TaskId, Task] = {}
        """Live tasks and dead letters."""
        self.finished: dict[TaskId, int] = {}
        """Fingerprints of the last FINISHED_MAX finished tasks, oldest first."""
        self.finished_order: deque[TaskId] = deque()
        """Their ids, in order, one for each number; empty where the id has been taken again since."""
        self.finished_count = 0
        self.nodes: dict[NodeId, NodeRecord] = {}
        self.leases: dict[NodeId, dict[TaskId, Task]] = {}
        """Leased tasks by holder."""
        self.queue = Queue()
        self.counts = [0] * len(STATE_NAMES)
        """Tasks by state; finished ones are counted for ever."""
        self.changed: dict[TaskId, Task] = {}
        """Tasks whose row in the ledger store is out of date."""
        self.forgotten: list[TaskId] = []
        self.event_batches: list[tuple[int, list[Happening]]] = []
        self.applied_index = LogIndex(0)
        self.applied_term = 0
        self.at_ms = 0
        self.digest = EMPTY
        self.digests: dict[int, bytes] = {}
        """Digests at the last DIGESTS_MAX entries, to compare with other replicas."""
        self.now: Applied = OUT_OF_OFFICE
        """Consequences of the entry being applied."""
        self.fresh: list[Task] = []
        """Tasks this entry created."""
        self.leftovers = Leftovers()
        """Of a table that another has replaced."""
        self.treated = Treated()
        self.live_bytes = 0
        """Of the payloads of live tasks and dead letters."""
        self.register(Registry())

    def register(self, registry: Registry) -> None:
        """Take over what is known besides tasks and nodes."""
        self.level = registry.level
        self.settings: Settings = registry.settings
        self.pauses: dict[str, Pause] = dict(registry.pauses)
        self.breakers: dict[tuple[NodeId, str], Breaker] = {
            (breaker.node_id, breaker.capability): breaker for breaker in registry.breakers
        }
        self.rates: dict[str, Window] = dict(registry.rates)
        self.sticky: dict[str, NodeId] = dict(registry.sticky)
        self.crons: dict[str, Cron] = {cron.spec.name: cron for cron in registry.crons}

    def registry(self) -> Registry:
        """The same, to be kept with the rows."""
        return Registry(
            self.level,
            self.settings,
            self.pauses,
            list(self.breakers.values()),
            self.rates,
            self.sticky,
            list(self.crons.values()),
        )

    def happened(
        self,
        kind: int,
        task: Task | None,
        node_id: NodeId = NodeId(""),
        detail: str = "",
        *,
        token: FencingToken | None = None,
    ) -> None:
        """Write down that something happened, in the events and in the task's history."""
        now = self.now
        if task is None:
            now.events.append(Happening(now.index, now.at_ms, kind, node_id, TaskId(""), 0, FencingToken(0), detail))
            return
        attempt_token = task.token if token is None else token
        happening = Happening(
            now.index, now.at_ms, kind, node_id, task.spec.task_id, task.attempts, attempt_token, detail
        )
        now.events.append(happening)
        task.remember(happening)

    def move(self, task: Task, state: int) -> None:
        """Put a task in another state. The caller has looked the transition up in the table."""
        self.counts[task.state] -= 1
        self.counts[state] += 1
        task.state = state
        self.changed[task.spec.task_id] = task

    def end_lease(self, task: Task) -> None:
        """If the task is leased, its holder has no more right to it. The token stays, to recognise what it may still
        say.
        """
        if task.state == DISPATCHED or task.state == RUNNING:
            spec = task.spec
            del self.leases[task.node_id][spec.task_id]
            if spec.options is not None:
                self.treated.lease_ended(spec.options)

    def finish(self, task: Task, state: int) -> None:
        """A task has reached its end. Dead letters stay in the table; others leave it."""
        self.move(task, state)
        task.finished_at_ms = self.now.at_ms
        self.now.finished.append(task)
        spec = task.spec
        if spec.options is not None:
            self.treated.remove(task, spec.options, is_dead=state == DEAD)
        if state == DEAD:
            return
        task_id = spec.task_id
        self.live_bytes -= len(spec.payload)
        self.finished_count += 1
        task.finished = self.finished_count
        if state == COMPLETED:
            task.checkpoint = b""
        del self.tasks[task_id]
        self.finished[task_id] = fingerprint(task)
        self.finished_order.append(task_id)
        if len(self.finished_order) > FINISHED_MAX:
            oldest = self.finished_order.popleft()
            if oldest:
                del self.finished[oldest]
                self.changed.pop(oldest, None)
                self.forgotten.append(oldest)

    def holder_leases(self, node_id: NodeId) -> dict[TaskId, Task]:
        """Tasks leased to a node."""
        return self.leases.get(node_id, {})

    def is_same(self, spec: TaskSpec) -> bool | None:
        """Whether a task with this id is known, and if so, whether it is this very task. None: unknown."""
        task = self.tasks.get(spec.task_id)
        if task is not None:
            if task.origin:
                return task.origin == payload_crc(spec)
            return task.spec.payload == spec.payload and task.spec.capability == spec.capability
        known = self.finished.get(spec.task_id)
        return None if known is None else known & 0xFFFFFFFF == payload_crc(spec)

    def load(self, intake: Intake, finished_last: int) -> None:
        """Take over a table that has come in whole. Counts and nodes come from the mark, see Ledger.restore. Takes as
        long for a million tasks as for one.
        """
        self.leftovers.add(*self.queue.heaps(), self.changed, self.finished_order, self.finished, self.tasks)
        self.tasks = intake.tasks
        self.leases = intake.leases
        self.queue = intake.queue
        self.treated = intake.treated
        self.live_bytes = intake.live_bytes
        self.finished = intake.finished
        self.finished_order = intake.finished_order
        self.finished_count = finished_last
        self.changed = {}
        self.forgotten = []
        self.event_batches = []
