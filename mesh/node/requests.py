"""What clients ask and are told. Any node listens; the leader answers, or whoever is asked for a stale answer.

A client is known here as (node it talks to, its link there); the node part is empty for our own clients. Nothing here
is durable: a client that hears nothing, or hears that the leader changed, says again what it wants, under the same
task ids.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import msgspec

from mesh.config import PAYLOAD_BYTES_MAX
from mesh.durable import Member
from mesh.ids import ClientId, LogIndex, NodeId, TaskId
from mesh.ledger.applied import ALREADY, DONE, UNKNOWN, Applied
from mesh.ledger.table import Table
from mesh.ledger.task import DEAD, FINISHED, Task, TaskState
from mesh.messages import (
    Accepted,
    Ask,
    ClientReply,
    Code,
    Order,
    TaskEnd,
    TaskRefusal,
    TasksEnded,
    TaskSpec,
    TasksRefused,
)
from mesh.node import treatment

Client = tuple[NodeId, ClientId]
Asked = tuple[Client, int]
"""Who asked, and under which request number."""
HERE = NodeId("")
ID_CHARS_MAX = 200
CAPABILITY_CHARS_MAX = 200
SOURCE_CHARS_MAX = 200
TARGET_CHARS_MAX = 500
REASON_CHARS_MAX = 1_000
ATTEMPTS_MAX = 1_000
PAGE_MAX = 1_000
CURSOR_DIGITS_MAX = 18
"""A log index has no more; what is longer does not fit the store's integers."""
ENDS_BYTES_MAX = 1 << 20
"""Ends told in one message, unless one alone is larger: a link cuts off what is over its limit."""
BACKPRESSURE_RETRY_MS = 500
WATCHERS_MAX = 1_000
"""Clients told of the end of one task. Of more, whoever asked first must ask again; clients do so every few seconds."""


class PendingRead(msgspec.Struct):
    """Questions that wait for one read round; `index` is what must be applied before they are answered, once known."""

    asked: list[tuple[Client, Ask]]
    index: LogIndex | None = None


class Submitting(msgspec.Struct):
    """A submit on its way through the log, and who waits to hear that it was accepted."""

    spec: TaskSpec
    clients: list[Client]


class Waiting:
    """Who waits for what, at the leader."""

    def __init__(self, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self.accepting: dict[TaskId, Submitting] = {}
        """Submits proposed and not yet applied."""
        self.watching: dict[TaskId, list[Client]] = {}
        """Clients to tell when a task ends."""
        self.reads: dict[int, PendingRead] = {}
        self.confirmed: deque[int] = deque()
        self.asked: list[tuple[Client, Ask]] = []
        """Questions of this turn, not yet given a read round."""
        self.last_read = 0
        self._reading = 0
        """Questions that were given one."""

    @property
    def is_full(self) -> bool:
        return len(self.accepting) + self._reading + len(self.asked) >= self._waiting_max

    def clear(self) -> list[tuple[Client, Ask]]:
        """Out of office. Submits get no answer, since what became of them is not known; questions are returned, to
        refuse.
        """
        self.accepting.clear()
        self.watching.clear()
        questions = self.asked + [pair for read in self.reads.values() for pair in read.asked]
        self.reads.clear()
        self.confirmed.clear()
        self.asked = []
        self._reading = 0
        return questions

    def accept(self, client: Client, spec: TaskSpec) -> bool:
        """Remember who to tell once a submit commits; False if this id is on its way already."""
        submitting = self.accepting.get(spec.task_id)
        if submitting is None:
            self.accepting[spec.task_id] = Submitting(spec, [client])
            return True
        if client not in submitting.clients:
            submitting.clients.append(client)
        return False

    def is_taken(self, spec: TaskSpec) -> bool:
        """Whether another task under this id is on its way: which of the two will have it is not known yet."""
        submitting = self.accepting.get(spec.task_id)
        if submitting is None:
            return False
        other = submitting.spec
        return other.payload != spec.payload or other.capability != spec.capability

    def watch(self, client: Client, task_id: TaskId) -> None:
        clients = self.watching.get(task_id)
        if clients is None:
            self.watching[task_id] = [client]
        elif client not in clients:
            clients.append(client)
            if len(clients) > WATCHERS_MAX:
                del clients[0]

    def take_asked(self) -> int:
        """Give the questions of this turn one read round; 0 if there are none."""
        if not self.asked:
            return 0
        self.last_read += 1
        self.reads[self.last_read] = PendingRead(self.asked)
        self._reading += len(self.asked)
        self.asked = []
        return self.last_read

    def take_read(self, read_id: int) -> list[tuple[Client, Ask]]:
        """The questions of a round, which wait for it no more."""
        read = self.reads.pop(read_id, None)
        if read is None:
            return []
        self._reading -= len(read.asked)
        return read.asked

    def confirm(self, read_id: int, index: LogIndex) -> None:
        """Raft vouches: whoever has applied `index` may answer."""
        read = self.reads.get(read_id)
        if read is not None:
            read.index = index
            self.confirmed.append(read_id)

    def ready(self, applied_index: LogIndex) -> list[tuple[Client, Ask]]:
        """Questions whose round is confirmed and whose index is applied: to be answered now."""
        answerable: list[tuple[Client, Ask]] = []
        while self.confirmed:
            read = self.reads.get(self.confirmed[0])
            if read is not None and read.index is not None and read.index > applied_index:
                break
            answerable += self.take_read(self.confirmed.popleft())
        return answerable

    def applied(self, applied: Applied, table: Table) -> list[tuple[Client, ClientReply]]:
        """What to tell whom after an entry was applied. Grouped: one message a client and kind."""
        replies: list[tuple[Client, ClientReply]] = []
        if self.accepting:
            replies += self._accepted(applied)
        if self.watching and applied.finished:
            ends: dict[Client, list[TaskEnd]] = {}
            for task in applied.finished:
                if not has_ended(task):
                    continue  # It was put back in the very entry that buried it.
                for client in self.watching.pop(task.spec.task_id, ()):
                    ends.setdefault(client, []).append(end_of(task))
            replies += [(client, TasksEnded(part)) for client, some in ends.items() for part in in_parts(some)]
        return replies

    def _accepted(self, applied: Applied) -> list[tuple[Client, ClientReply]]:
        refused = self._turned_down(applied) if applied.turned_down else []
        refused += self._overtaken(applied) if applied.conflicts else []
        accepted: dict[Client, list[TaskId]] = {}
        for task_id in applied.submitted:
            submitting = self.accepting.pop(task_id, None)
            for client in submitting.clients if submitting is not None else ():
                ids = accepted.get(client)
                if ids is None:
                    ids = accepted[client] = []
                ids.append(task_id)
        return refused + [(client, Accepted(applied.index, ids)) for client, ids in accepted.items()]

    def _turned_down(self, applied: Applied) -> list[tuple[Client, ClientReply]]:
        """Those whose concurrency key was full when they came."""
        replies: list[tuple[Client, ClientReply]] = []
        for task_id in applied.turned_down:
            submitting = self.accepting.pop(task_id, None)
            self.watching.pop(task_id, None)
            if submitting is not None:
                refusal = TasksRefused([backpressure(submitting.spec, "its concurrency key is full")])
                replies += [(client, refusal) for client in submitting.clients]
        return replies

    def _overtaken(self, applied: Applied) -> list[tuple[Client, ClientReply]]:
        """Those whose id was free when they were proposed, and has gone to the firing of a schedule meanwhile."""
        replies: list[tuple[Client, ClientReply]] = []
        for task_id in applied.conflicts:
            submitting = self.accepting.pop(task_id, None)
            clients = submitting.clients if submitting is not None else []
            others = [client for client in self.watching.pop(task_id, ()) if client not in clients]
            if others:
                self.watching[task_id] = others
            replies += [(client, TasksRefused([conflict(task_id)])) for client in clients]
        return replies


def has_ended(task: Task) -> bool:
    return task.state in FINISHED or task.state == DEAD


def end_of(task: Task) -> TaskEnd:
    """How a task ended, for those who wait for it."""
    return TaskEnd(task.spec.task_id, task.state, task.result, task.error, task.detail, task.node_id, task.attempts)


def in_parts(ends: list[TaskEnd]) -> Iterator[list[TaskEnd]]:
    """The same ends in as many messages as they need."""
    part: list[TaskEnd] = []
    size = 0
    for end in ends:
        more = len(end.result) + len(end.detail) + 64
        if part and size + more > ENDS_BYTES_MAX:
            yield part
            part, size = [], 0
        part.append(end)
        size += more
    if part:
        yield part


def conflict(task_id: TaskId) -> TaskRefusal:
    text = f"task id {task_id!r} is taken by a task with another capability or payload; choose another id"
    return TaskRefusal(task_id, Code.CONFLICT, text)


def unavailable(specs: Iterable[TaskSpec], why: str) -> TasksRefused:
    return TasksRefused([TaskRefusal(spec.task_id, Code.UNAVAILABLE, why) for spec in specs])


def taken(spec: TaskSpec) -> TaskRefusal:
    text = f"another task with id {spec.task_id!r} is being accepted; try again to learn whether it was"
    return TaskRefusal(spec.task_id, Code.BACKPRESSURE, text, BACKPRESSURE_RETRY_MS)


def backpressure(spec: TaskSpec, why: str) -> TaskRefusal:
    return TaskRefusal(spec.task_id, Code.BACKPRESSURE, f"{why}; try again later", BACKPRESSURE_RETRY_MS)


def member(target: str) -> Member | None:
    """The node that `ID@HOST:PORT` names; None if it names none."""
    node_id, _, address = target.rpartition("@")
    if not 0 < len(node_id) <= ID_CHARS_MAX or not address:
        return None
    return Member(NodeId(node_id), address)


def invalid(spec: TaskSpec) -> str:
    """Why a task cannot be accepted, in one sentence; empty if it can."""
    if not spec.task_id or len(spec.task_id) > ID_CHARS_MAX:
        return f"a task id has 1 to {ID_CHARS_MAX} characters, this one {len(spec.task_id)}"
    if not spec.capability or len(spec.capability) > CAPABILITY_CHARS_MAX:
        return f"a capability has 1 to {CAPABILITY_CHARS_MAX} characters, this one {len(spec.capability)}"
    if len(spec.payload) > PAYLOAD_BYTES_MAX:
        return f"the payload takes {len(spec.payload)} bytes; {PAYLOAD_BYTES_MAX} at most travel inline"
    if len(spec.checkpoint) > PAYLOAD_BYTES_MAX:
        return f"the checkpoint takes {len(spec.checkpoint)} bytes; {PAYLOAD_BYTES_MAX} at most travel inline"
    if not 1 <= spec.max_attempts <= ATTEMPTS_MAX:
        return f"max_attempts is 1 to {ATTEMPTS_MAX}, not {spec.max_attempts}"
    if not -1_000_000 <= spec.priority <= 1_000_000:
        return f"a priority lies between -1000000 and 1000000, not {spec.priority}"
    if len(spec.source) > SOURCE_CHARS_MAX:
        return f"a source has {SOURCE_CHARS_MAX} characters at most, this one {len(spec.source)}"
    return "" if spec.options is None else treatment.flaw(spec.options)


def unfit(request: Ask | Order) -> str:
    """Why a question or an order is not even looked at, in one sentence; empty if it is.

    What is ordered goes into the log, and an entry that no link takes would stop it for good. What is asked for goes
    to the store, which stops a node when it cannot read.
    """
    if isinstance(request, Ask):
        is_short = len(request.states) <= len(TaskState)
        return "" if is_short else f"there are {len(TaskState)} states, not {len(request.states)}"
    if len(request.target) > TARGET_CHARS_MAX:
        return f"a target has {TARGET_CHARS_MAX} characters at most, this one {len(request.target)}"
    if len(request.reason) > REASON_CHARS_MAX:
        return f"a reason has {REASON_CHARS_MAX} characters at most, this one {len(request.reason)}"
    if len(request.value) > PAYLOAD_BYTES_MAX:
        return f"the value takes {len(request.value)} bytes; {PAYLOAD_BYTES_MAX} at most travel inline"
    return ""


def limit(ask: Ask) -> int:
    return min(max(ask.limit, 1), PAGE_MAX)


def cursor(ask: Ask) -> int:
    """The log index after which EVENTS goes on; what is none is the beginning."""
    after = ask.after
    return int(after) if after.isascii() and after.isdigit() and len(after) <= CURSOR_DIGITS_MAX else 0


def order_answer(outcome: int, *, has_ended: bool, is_ruling: bool = False) -> tuple[Code, str]:
    """What to tell whoever gave an order, given what came of its command. `has_ended`: it is about a finished task.
    `is_ruling`: it is about the mesh as a whole, and was found possible when it was given.
    """
    if outcome == DONE:
        return Code.OK, "done"
    if outcome == ALREADY:
        return Code.OK, "already so"
    if outcome == UNKNOWN and has_ended:
        return Code.REFUSED, "the task has ended, and is no dead letter; look at it with `mesh task show`"
    if is_ruling:
        return Code.REFUSED, "things have changed while the order was on its way; nothing was done, look and try again"
    if outcome == UNKNOWN:
        return Code.NOT_FOUND, "there is no such task or node"
    return Code.REFUSED, "not in its present state; look at it with `mesh task show`"
