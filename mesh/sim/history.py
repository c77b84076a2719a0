"""What all clients asked and were told in a run, and whether it can have happened.

Lines tell of every request and every reply, the checker of every entry that is applied first: what the log shows closes
what nobody was told (etcd does so too). At the end of a seed each task's history is searched for an order of single
steps (linearizable.py), and the queue as a whole is counted (queue_checks.py).
"""

from collections.abc import Hashable, Iterable
from typing import Final

import msgspec

from mesh.ids import TaskId
from mesh.ledger.task import COMPLETED, DEAD, FINISHED, PENDING, STATE_NAMES
from mesh.messages import (
    Accepted,
    Action,
    Answer,
    Ask,
    ClientReply,
    ClientRequest,
    Code,
    Order,
    Question,
    SubmitTasks,
    TaskEnd,
    TasksEnded,
    TasksRefused,
)
from mesh.options import Dependents, Selection
from mesh.sim.coverage import Coverage
from mesh.sim.linearizable import Call, Operation, Outcome, Verdict, View, check
from mesh.sim.model import Model, ModelTask
from mesh.sim.queue_checks import Grant, Loss, out_of_turn, total_queue
from mesh.sim.violation import Violation

READS: Final = "25 reads are linearizable"
TURNS: Final = "first come, first served within a priority"
COUNTS: Final = "17 no acked task is lost"
THE_LOG: Final = "the log"
_NIL: Final = b"\xc0"
_CALLS: Final = {Action.CANCEL: Call.CANCEL, Action.RETRY: Call.REDRIVE, Action.DROP: Call.DROP}
_STATES: Final = {name: state for state, name in enumerate(STATE_NAMES)}
_MANY: Final = {
    Action.CANCEL_MANY: Call.CANCEL,
    Action.CLEAR: Call.CANCEL,
    Action.RETRY_MANY: Call.REDRIVE,
    Action.DROP_MANY: Call.DROP,
}
_LISTS: Final = (Question.TASKS, Question.DEAD_LETTERS)
_ONE: Final = (Question.TASK, Question.EXPLAIN)


class _Document(msgspec.Struct):
    """What of a task's document, or of its explanation, says where it stands."""

    state: str
    capability: str = ""
    token: int | None = None
    attempts: int | None = None
    result: msgspec.Raw = msgspec.Raw(b"")
    payload: msgspec.Raw = msgspec.Raw(b"")
    """Empty where the document says nothing of them."""
    primary_error: str | None = None


class _Line(msgspec.Struct):
    """A task in a list. A dead letter needs not say that it is dead."""

    id: TaskId
    attempts: int
    state: str = STATE_NAMES[DEAD]


class _Page(msgspec.Struct):
    next: str | None = None
    tasks: list[_Line] = []
    dead_letters: list[_Line] = []


_document = msgspec.msgpack.Decoder(_Document)
_page = msgspec.msgpack.Decoder(_Page)
_selection = msgspec.msgpack.Decoder(Selection)

_Place = tuple[TaskId, int]
"""An operation: the task, and its number in the task's history."""


class History:
    """Grows during a run, is judged at its end. All that happens is numbered as it happens."""

    def __init__(self, coverage: Coverage, *, doubles: bool = False, in_flight_max: int = 1) -> None:
        self.doubles = doubles
        """The wires may deliver twice: what was asked may take effect again, even after it was answered."""
        self.in_flight_max = in_flight_max
        """Entries that a leader has on their way: those it made before it knew what came of the first."""
        self.tasks: dict[TaskId, list[Operation]] = {}
        self.accepted: dict[TaskId, int] = {}
        """When a client first heard that a task is accepted."""
        self._coverage = coverage
        self._now = 0
        self._links = 0
        self._submits: dict[tuple[int, TaskId], list[_Place]] = {}
        """Submits not yet answered, by link."""
        self._questions: dict[tuple[int, int], tuple[int, Ask]] = {}
        self._orders: dict[tuple[int, int], _Place] = {}
        self._asked: dict[TaskId, None] = {}
        """Whatever any client submitted, and every firing of a schedule."""
        self._selections: list[tuple[Call, Selection]] = []
        """What orders for many tasks have meant."""
        self._revised: set[TaskId] = set()
        """Tasks that were to be put back with another payload."""
        self._renewable: set[TaskId] = set()
        """Tasks whose id may be taken again."""
        self._known: dict[TaskId, int] = {}
        """Tasks that a schedule submitted, or that were given another priority: from which entry on whoever grants
        knows where they stand.
        """
        self._moved: set[TaskId] = set()
        self._born: dict[TaskId, bool] = {}
        """Tasks in the order they came into the log; whether nothing has disturbed their turn so far."""
        self._grants: list[Grant] = []
        self._results: dict[tuple[TaskId, bytes], None] = {}
        """Every result that anybody was told of."""

    def new_link(self) -> int:
        """A client has dialled."""
        self._links += 1
        return self._links

    # --- what is asked ------------------------------------------------------------------------------------------------

    def invoked(self, link: int, request: ClientRequest) -> None:
        """A client says this; whether it arrives is another matter."""
        self._now += 1
        if isinstance(request, SubmitTasks):
            for spec in request.specs:
                self._asked[spec.task_id] = None
                if spec.options is not None and spec.options.window_ms:
                    self._renewable.add(spec.task_id)
                place = self._open(link, spec.task_id, Call.SUBMIT, _identity(spec.capability, spec.payload))
                self._submits.setdefault((link, spec.task_id), []).append(place)
        elif isinstance(request, Ask):
            if not request.stale and (request.question in _ONE or request.question in _LISTS):
                self._questions[link, request.request] = (self._now, request)
        elif isinstance(request, Order) and request.action in _CALLS:
            call = _CALLS[Action(request.action)]
            self._orders[link, request.request] = self._open(link, TaskId(request.target), call)
            if request.value:
                self._revised.add(TaskId(request.target))
        elif isinstance(request, Order) and request.action in _MANY:
            self._selections.append((_MANY[Action(request.action)], _selection_of(request)))

    def _open(self, link: int, task_id: TaskId, call: Call, payload: bytes = b"") -> _Place:
        operations = self.tasks.setdefault(task_id, [])
        asked = Operation(f"link {link}", call, self._now, payload=payload, may_repeat=self.doubles)
        operations.append(asked)
        return task_id, len(operations) - 1

    # --- what is heard ------------------------------------------------------------------------------------------------

    def heard(self, link: int, reply: ClientReply) -> None:
        """A client hears this. Raises Violation if a list lacks what must be in it."""
        self._now += 1
        if isinstance(reply, Accepted):
            for task_id in reply.task_ids:
                self.accepted.setdefault(task_id, self._now)
                for place in self._submits.get((link, task_id), ())[:1]:
                    self._submits[link, task_id].remove(place)
                    self._close(place, Outcome.DONE)
        elif isinstance(reply, TasksRefused):
            for refusal in reply.refusals:
                self._refused(link, refusal.task_id, refusal.code)
        elif isinstance(reply, TasksEnded):
            for end in reply.ends:
                self._ended(link, end)
        elif isinstance(reply, Answer):
            self._answered(link, reply)

    def _refused(self, link: int, task_id: TaskId, code: int) -> None:
        """Which of several submits over one link is meant is not said; then nothing is known of any of them."""
        places = self._submits.get((link, task_id), [])
        if len(places) == 1:
            self._close(places.pop(), Outcome.CONFLICT if code == Code.CONFLICT else Outcome.NOTHING)

    def _ended(self, link: int, end: TaskEnd) -> None:
        """An end for ever is true from now on. Of a death it is only known that there was one, at some time; the same
        where the id may be taken again afterwards.
        """
        if end.state in FINISHED or end.state == DEAD:
            since = 0 if end.state == DEAD or end.task_id in self._renewable else self._now
            view = View(end.state, None, end.attempts, end.result or _NIL)
            self._saw(f"link {link}", end.task_id, since, view)

    def _answered(self, link: int, answer: Answer) -> None:
        place = self._orders.pop((link, answer.request), None)
        if place is not None:
            self._close(place, _outcome_of_order(answer))
            return
        asked = self._questions.pop((link, answer.request), None)
        if asked is None:
            return
        since, ask = asked
        if answer.code == Code.NOT_FOUND:
            self._saw(f"link {link}", TaskId(ask.task_id), since, None)
        elif answer.code == Code.OK and ask.question in _ONE:
            view = _view_of(_document.decode(answer.body), is_revised=ask.task_id in self._revised)
            self._saw(f"link {link}", TaskId(ask.task_id), since, view)
        elif answer.code == Code.OK:
            self._listed(link, since, ask, _page.decode(answer.body))

    def _listed(self, link: int, since: int, ask: Ask, page: _Page) -> None:
        for line in (*page.tasks, *page.dead_letters):
            self._saw(f"link {link}", line.id, since, View(_STATES[line.state], None, line.attempts))
        if ask.question == Question.TASKS and not ask.states and not ask.capability:
            there = {line.id for line in page.tasks}
            for task_id, accepted in self.accepted.items():
                is_within = task_id > ask.after and (page.next is None or task_id <= page.next)
                if accepted < since and is_within and task_id not in there:
                    raise Violation(READS, f"accepted, and then missing in a list up to {page.next!r}", task_id)

    def _close(self, place: _Place, outcome: Outcome) -> None:
        task_id, number = place
        operations = self.tasks[task_id]
        operations[number] = msgspec.structs.replace(operations[number], returned=self._now, outcome=outcome)

    def _saw(self, who: str, task_id: TaskId, since: int, view: View | None) -> None:
        if view is not None and view.state == COMPLETED and view.result is not None:
            self._results[task_id, view.result] = None
        outcome = Outcome.MISSING if view is None else Outcome.DONE
        read = Operation(who, Call.READ, since, self._now, outcome, view=view)
        self.tasks.setdefault(task_id, []).append(read)

    # --- what the log says --------------------------------------------------------------------------------------------

    def committed(self, model: Model) -> None:
        """An entry was applied for the first time anywhere: from now on nobody may be told otherwise."""
        for call, task_id, is_ordered in model.done:
            task = model.tasks[task_id]
            moved = task_id in self._moved
            if is_ordered and not any(
                call is wanted and _means(chosen, task, is_moved=moved) for wanted, chosen in self._selections
            ):
                continue  # For this one alone: whoever ordered it is told, and that is in the books.
            if call is Call.SUBMIT:
                self._asked[task_id] = None
                self._known[task_id] = model.entries + self.in_flight_max
            self._did(call, task_id, task)
        for task_id, task in model.touched.items():
            self._now += 1
            payload = _identity(*task.asked)
            self._saw(THE_LOG, task_id, self._now, View(task.state, task.token, task.attempts, None, payload))
            is_undisturbed = self._born.get(task_id)
            if is_undisturbed is None:
                self._born[task_id] = task.state == PENDING or bool(task.token)
            elif task_id in model.moved and task.token in (0, model.index):
                self._known[task_id] = model.entries + self.in_flight_max
                self._moved.add(task_id)
            elif is_undisturbed and not task.token:
                self._born[task_id] = False
        for task_id in model.refused:  # Its node was given up or drained while the grant was on its way.
            self._born[task_id] = False
        for task_id in model.granted.get(model.index, ()):
            self._granted(task_id, model.tasks[task_id], model.entries)

    def _granted(self, task_id: TaskId, task: ModelTask, entry: int) -> None:
        since = self._known.get(task_id, 0)
        if entry < since and task_id in self._moved:  # It may have been granted from where it stood before.
            self._born[task_id] = False
        self._grants.append(Grant(task_id, (_lane(task), task.priority), entry, since))

    def _did(self, call: Call, task_id: TaskId, task: ModelTask) -> None:
        """The log shows that this was done, at this very time."""
        self._now += 1
        if call is Call.RENEW:
            self._born[task_id] = False
        did = Operation(THE_LOG, call, self._now, self._now, Outcome.DONE, _identity(*task.asked))
        self.tasks.setdefault(task_id, []).append(did)

    # --- the end ------------------------------------------------------------------------------------------------------

    def judge(self, there: Iterable[TaskId]) -> None:
        """Raises Violation for a task whose history cannot have happened, or was not decided within the bound; for one
        that is lost, or there twice; and for one that was overtaken. `there` are the ids the mesh knows in the end.
        """
        for task_id, operations in self.tasks.items():
            finding = check(operations)
            if finding.verdict is not Verdict.LINEARIZABLE:
                told = "; ".join(in_words(operation) for operation in finding.stuck[:5])
                raise Violation(READS, f"{finding.verdict.value} after {finding.steps} steps: {told}", task_id)
            self._coverage.add("history placed")
        completed = [task_id for task_id, _ in self._results if task_id not in self._renewable]
        count = total_queue(self._asked, list(self.accepted), there, completed)
        if count.loss is not Loss.NONE or count.unexpected or count.duplicated:
            raise Violation(COUNTS, f"{count}", (count.lost + count.unexpected + count.duplicated)[0])
        self._coverage.add("task done of which nobody was told that it is accepted", len(count.recovered))
        places = {task_id: number for number, (task_id, is_calm) in enumerate(self._born.items()) if is_calm}
        overtaken = out_of_turn(places, self._grants)
        if overtaken is not None:
            late, early = overtaken
            raise Violation(TURNS, f"{late} was granted after {early}, which came later", late)


def in_words(operation: Operation) -> str:
    """One line for people."""
    seen = operation.view
    answer = operation.outcome.value
    if seen is not None:
        answer = f"{STATE_NAMES[seen.state]} under {seen.token}, attempts {seen.attempts}, result {seen.result!r}"
    return f"{operation.who} {operation.invoked}-{operation.returned} {operation.call.value} -> {answer}"


def _identity(capability: str, payload: bytes) -> bytes:
    """What makes one submit the same as another."""
    return capability.encode() + b"\0" + payload


def _lane(task: ModelTask) -> Hashable:
    """What tasks have in common that stand and fall together."""
    options = task.options
    if options is None:
        return task.capability
    sticky = options.sticky if options.is_sticky_hard else ""
    wanted = task.capability, options.require, options.avoid, options.version, sticky
    fallback = "" if options.fallback == task.capability else options.fallback
    return wanted, options.fairness, options.weight_permille, fallback, options.concurrency, options.rates


def _selection_of(order: Order) -> Selection:
    if order.action == Action.CLEAR:
        return Selection(priority_min=int(order.target), priority_max=int(order.target))
    return _selection.decode(order.value)


def _means(selection: Selection, task: ModelTask, *, is_moved: bool) -> bool:
    """Whether an order may have meant this task, as far as that hangs on what seldom changes."""
    if selection.is_dry:
        return False
    if selection.dependents == Dependents.CANCEL and task.options is not None and task.options.parent:
        return True
    if selection.task_ids:
        return task.task_id in selection.task_ids
    is_low = is_moved or selection.priority_min is None or task.priority >= selection.priority_min
    is_high = is_moved or selection.priority_max is None or task.priority <= selection.priority_max
    return selection.capability in ("", task.capability, task.asked[0]) and is_low and is_high


def _view_of(document: _Document, *, is_revised: bool) -> View:
    """What it says. A task that fell back or was put back with another payload is not what was submitted."""
    payload, result = bytes(document.payload), bytes(document.result)
    is_told = payload and not is_revised and document.primary_error is None
    identity = _identity(document.capability, payload) if is_told else None
    return View(_STATES[document.state], document.token, document.attempts, result or None, identity)


def _outcome_of_order(answer: Answer) -> Outcome:
    if answer.code == Code.OK:
        return Outcome.ALREADY if answer.message == "already so" else Outcome.DONE
    if answer.code == Code.NOT_FOUND:
        return Outcome.MISSING
    return Outcome.REFUSED if answer.code == Code.REFUSED else Outcome.NOTHING
