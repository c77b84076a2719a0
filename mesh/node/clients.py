"""The node's end of its clients' conversation: requests in, answers out, forwarded to whoever leads.

A request that reaches the leader, directly or through another node, is handled here once; its answer goes back the way
it came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from mesh.effects import Channel, LoadHistory, LoadRows, Reply, Send
from mesh.events import ClientMessage, HistoryLoaded, RowsLoaded
from mesh.ids import ClientId, FencingToken, NodeId, TaskId
from mesh.ledger.applied import Applied
from mesh.ledger.commands import Command
from mesh.ledger.task import FINISHED, Task
from mesh.messages import (
    Accepted,
    Answer,
    Ask,
    ClientReply,
    ClientRequest,
    Code,
    Forward,
    LeaderHint,
    Order,
    Question,
    Relay,
    SubmitTasks,
    TaskEnd,
    TaskRefusal,
    TasksEnded,
    TaskSpec,
    TasksRefused,
    WatchTasks,
)
from mesh.node import answers, requests, views
from mesh.node.admitting import Renewals, Room
from mesh.node.requests import HERE, Client, Waiting
from mesh.wire.codec import Rubbish, decode_request, decode_task, encode

if TYPE_CHECKING:
    from mesh.node.node import Node

NO_LEADER = "no leader is known here just now; nothing was done, try again"
NOT_SERVING = "this node does not lead (any more); nothing was done, try again"
LOADS_MAX = 10_000
LOAD_TRIES_MAX = 10
LOADED_AT_ONCE_MAX = 64
"""Rows of watched tasks that one read brings into memory; a row may weigh 3 MiB."""
ENTRIES_A_PAGE_MAX = 100
"""Entries whose events one read brings into memory; an entry may have a thousand events."""
EARLY_MAX = 1_000
CLIENTS_MAX = 10_000
CLIENTS_PER_START = 1 << 32
"""A node numbers its clients anew with every start. Abroad the number of the start goes before the client's."""


_VIEWS: dict[int, Callable[[Node], msgspec.Struct]] = {
    Question.AGENTS: views.agents,
    Question.CRONS: views.crons,
    Question.SETTINGS: views.settings,
}


class Load(msgspec.Struct):
    """A read of the ledger store on its way, and who it is for. `ask` is None for the end of watched tasks. `moves` is
    what `Behind.moves` was when it left, `tries` how often it was made.
    """

    client: Client
    ask: Ask | None
    moves: int
    tries: int = 1


class ClientDesk:
    """Requests of clients, at this node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.waiting = Waiting(node.config.dispatch.waiting_max)
        self.known: dict[ClientId, None] = {}
        """Our own clients, in order of arrival; those that are told of a new leader."""
        self._loads: dict[int, Load] = {}
        self._last_load = 0
        self.renewals = Renewals(node)
        self._early: list[tuple[Client, WatchTasks]] = []
        """Watches that came between our election and our taking office: clients ask for them when they hear of it."""

    # --- in ---

    def message(self, event: ClientMessage) -> None:
        """A client of this node speaks."""
        node = self._node
        client_id = event.client
        if client_id not in self.known and len(self.known) < CLIENTS_MAX:
            self.known[client_id] = None
            self.hint(client_id)
        try:
            request = decode_request(event.data)
        except Rubbish as error:
            node.count_rubbish("client_message", str(error))
            return
        client = (HERE, client_id)
        leader = node.raft.leader_id
        if node.leading.dispatcher.in_office or (type(request) is Ask and request.stale):
            self.handle(client, request)
        elif leader is not None and leader != node.node_id:
            node.out.append(Send(leader, Channel.DATA, encode(Forward(self._abroad(client_id), event.data))))
        else:
            self.refuse(client, request, NO_LEADER)

    def forwarded(self, peer: NodeId, message: Forward) -> None:
        """Another node's client speaks."""
        try:
            request = decode_request(message.data)
        except Rubbish as error:
            self._node.count_rubbish("forwarded", str(error))
            return
        client = (peer, message.client)
        if self._node.leading.dispatcher.in_office:
            self.handle(client, request)
        else:
            self.refuse(client, request, NOT_SERVING)

    def _abroad(self, client_id: ClientId) -> ClientId:
        return ClientId(self._node.config.incarnation * CLIENTS_PER_START + client_id)

    def relayed(self, message: Relay) -> None:
        """The leader answers a client of ours, or one of an earlier start, whose number another has now."""
        incarnation, number = divmod(message.client, CLIENTS_PER_START)
        if incarnation == self._node.config.incarnation:
            self._node.out.append(Reply(ClientId(number), message.data))
        else:
            self._node.count("relays_for_past_incarnation")

    def handle(self, client: Client, request: ClientRequest) -> None:
        """Do what is asked; this node leads, or a stale answer will do."""
        if isinstance(request, SubmitTasks):
            self._submit(client, request)
        elif isinstance(request, WatchTasks):
            self._watch(client, request.task_ids)
        elif why := requests.unfit(request):
            self.answer(client, request.request, Code.INVALID, why)
        elif type(request) is Ask:
            if request.stale or not self.waiting.is_full:
                self._ask(client, request)
            else:
                self.answer(client, request.request, Code.BACKPRESSURE, "too many requests wait; try again")
        else:
            assert type(request) is Order, "the fourth of four kinds of request"
            self._node.orders.order(client, request)

    def refuse(self, client: Client, request: ClientRequest, why: str) -> None:
        """Nobody leads, or not yet. A status question is answered all the same, marked stale."""
        if type(request) is SubmitTasks:
            self.tell(client, requests.unavailable(request.specs, why))
        elif type(request) is Ask and request.question in (Question.STATUS, Question.RAFT):
            self._answer_ask(client, msgspec.structs.replace(request, stale=True))
        elif isinstance(request, Ask | Order):
            self.answer(client, request.request, Code.UNAVAILABLE, why)
        elif self._node.raft.leader_id == self._node.node_id and len(self._early) < EARLY_MAX:
            assert isinstance(request, WatchTasks), "the fourth of four kinds of request"
            self._early.append((client, request))

    def gone(self, client_id: ClientId) -> None:
        self.known.pop(client_id, None)

    # --- submit and watch ---

    def _submit(self, client: Client, request: SubmitTasks) -> None:
        node, waiting = self._node, self.waiting
        ledger = node.ledger
        refusals: list[TaskRefusal] = []
        held: list[TaskId] = []
        room = Room(node)
        for said in request.specs:
            spec = said if said.options is None else room.adapted(said)
            task_id = spec.task_id
            why = requests.invalid(spec)
            if why:
                refusals.append(TaskRefusal(task_id, Code.INVALID, why))
                continue
            is_same = ledger.is_same(spec)
            if is_same is not None:
                if spec.options is not None and self.renewals.may_be_over(spec):
                    self.renewals.look(client, spec, watch=request.watch)
                elif is_same:
                    held.append(task_id)
                else:
                    refusals.append(requests.conflict(task_id))
                continue
            is_on_its_way = task_id in waiting.accepting
            why = "" if is_on_its_way else room.lack(spec)
            if waiting.is_taken(spec):
                refusals.append(requests.taken(spec))
            elif why:
                refusals.append(requests.backpressure(spec, why))
            else:
                self.accept(client, spec, watch=request.watch)
                room.take(spec)
        if refusals:
            self.tell(client, TasksRefused(refusals))
        if held:
            self.hold(client, held, watch=request.watch)

    def accept(self, client: Client, spec: TaskSpec, *, watch: bool, renews: FencingToken = FencingToken(0)) -> None:
        """Propose a task, unless it is on its way already; and remember who to tell."""
        if self.waiting.accept(client, spec):
            self._node.leading.dispatcher.submit(spec, renews)
        if watch:
            self.waiting.watch(client, spec.task_id)

    def hold(self, client: Client, held: list[TaskId], *, watch: bool) -> None:
        """The mesh has these tasks already."""
        self.tell(client, Accepted(self._node.ledger.applied_index, held))
        if watch:
            self._watch(client, held)

    def _watch(self, client: Client, task_ids: list[TaskId]) -> None:
        """Tell of ends: at once where a task has ended, later where it lives, from the store where it has left
        memory.
        """
        ended: list[TaskEnd] = []
        to_load: list[TaskId] = []
        node = self._node
        for task_id in task_ids:
            task = node.behind.find(task_id)
            if task is None:
                if task_id in self.waiting.accepting:
                    self.waiting.watch(client, task_id)
                else:
                    to_load.append(task_id)
            elif requests.has_ended(task):
                ended.append(requests.end_of(task))
            else:
                self.waiting.watch(client, task_id)
        self._tell_ends(client, ended)
        for at in range(0, len(to_load), LOADED_AT_ONCE_MAX):
            self._load(client, None, to_load[at : at + LOADED_AT_ONCE_MAX])

    def _tell_ends(self, client: Client, ends: list[TaskEnd]) -> None:
        for part in requests.in_parts(ends):
            self.tell(client, TasksEnded(part))

    # --- questions ---

    def _ask(self, client: Client, ask: Ask) -> None:
        if ask.stale:
            self._answer_ask(client, ask)
        else:
            self.waiting.asked.append((client, ask))

    def answer_ready(self) -> None:
        """Answer the questions whose read round is confirmed and applied."""
        if self.waiting.confirmed:
            for client, ask in self.waiting.ready(self._node.ledger.applied_index):
                self._answer_ask(client, ask)

    def _answer_ask(self, client: Client, ask: Ask) -> None:
        node = self._node
        if ask.question == Question.STATUS:
            status = node.answers.status(node.now_ms, stale=ask.stale, counters=node.counted())
            self.document(client, ask, status)
        elif ask.question == Question.RAFT:
            self.document(client, ask, node.answers.raft_status())
        elif ask.question == Question.TASK or ask.question == Question.EXPLAIN:
            task = node.behind.find(TaskId(ask.task_id))
            if task is None:
                self._load(client, ask, [TaskId(ask.task_id)])
            else:
                self._task_document(client, ask, task)
        elif ask.question == Question.DEAD_LETTERS:
            node.lists.dead_letters(client, ask)
        elif ask.question == Question.TASKS or ask.question == Question.EVENTS:
            self._load(client, ask, [])
        elif ask.question == Question.QUEUES:
            views.queues(node, client, ask)
        elif ask.question == Question.DEAD_LETTER_GROUPS:
            views.dead_letter_groups(node, client, ask)
        elif ask.question in _VIEWS:
            self.document(client, ask, _VIEWS[ask.question](node))
        else:
            self.answer(client, ask.request, Code.INVALID, f"unknown question {ask.question}")

    def _task_document(self, client: Client, ask: Ask, task: Task) -> None:
        if ask.question == Question.EXPLAIN:
            self.document(client, ask, self._node.answers.explanation(task, self._node.leading.log_ms()))
        else:
            self.document(client, ask, self._node.answers.task(task, stale=ask.stale))

    def document(self, client: Client, ask: Ask, document: msgspec.Struct) -> None:
        """Answer a question."""
        self.tell(client, Answer(ask.request, Code.OK, "", encode(document)))

    def _load(self, client: Client, ask: Ask | None, task_ids: list[TaskId]) -> None:
        """Look in the ledger store for what has left memory."""
        if len(self._loads) >= LOADS_MAX:
            if ask is not None:
                self.answer(client, ask.request, Code.BACKPRESSURE, "too many reads wait for the disk; try again")
            return
        self._read(Load(client, ask, self._node.behind.moves), task_ids)

    def next_load(self) -> int:
        """A number for a read of the ledger store."""
        self._last_load += 1
        return self._last_load

    def _read(self, load: Load, task_ids: list[TaskId]) -> None:
        load_id, ask = self.next_load(), load.ask
        self._loads[load_id] = load
        if ask is not None and ask.question == Question.EVENTS:
            self._node.out.append(LoadHistory(load_id, requests.cursor(ask), _entries_max(ask)))
        elif ask is not None and not task_ids:
            states = tuple(state for state in ask.states if state in FINISHED)
            nothing = bool(ask.states) and not states
            limit = 0 if nothing else requests.limit(ask) + 1
            self._node.out.append(LoadRows(load_id, [], ask.after, limit, states, ask.capability))
        else:
            self._node.out.append(LoadRows(load_id, task_ids, limit=len(task_ids)))

    def _is_whole(self, load: Load) -> bool:
        """Whether what was read goes together with what is in memory now. What was written meanwhile may be in neither:
        then it is read again.
        """
        moves = self._node.behind.moves
        if load.moves == moves:
            return True
        assert load.ask is not None, "pages are asked for"
        if load.tries >= LOAD_TRIES_MAX:
            text = "the table was written too often while it was read; try again"
            self.answer(load.client, load.ask.request, Code.BACKPRESSURE, text)
        else:
            load.moves = moves
            load.tries += 1
            self._read(load, [])
        return False

    def rows_loaded(self, event: RowsLoaded) -> None:
        load = self._loads.pop(event.read_id, None)
        if load is None:
            self.renewals.loaded(event)
            return
        client, ask = load.client, load.ask
        if ask is not None and ask.question == Question.TASKS and not self._is_whole(load):
            return
        tasks = [decode_task(row.record) for row in event.rows]
        if ask is None:
            self._loaded_ends(client, tasks)
        elif ask.question == Question.TASKS:
            self._node.lists.tasks(client, ask, tasks, is_cut=bool(event.more))
        elif tasks:
            self._task_document(client, ask, tasks[0])
        else:
            self.answer(client, ask.request, Code.NOT_FOUND, f"there is no task {ask.task_id!r}")

    def _loaded_ends(self, client: Client, tasks: list[Task]) -> None:
        """Ends of watched tasks that were on disk. Of one that is nowhere nothing is said: it may yet be submitted."""
        self._tell_ends(client, [requests.end_of(task) for task in tasks if requests.has_ended(task)])

    def history_loaded(self, event: HistoryLoaded) -> None:
        load = self._loads.pop(event.read_id, None)
        if load is None or load.ask is None or not self._is_whole(load):
            return
        ask = load.ask
        last = event.batches[-1][0] if event.batches else requests.cursor(ask)
        is_cut = len(event.batches) >= _entries_max(ask)
        recent = [] if is_cut else self._node.behind.recent_events(last)
        page = answers.event_page(event.batches, recent, requests.cursor(ask), requests.limit(ask))
        self.document(load.client, ask, page)

    def applied(self, applied: Applied, commands: list[Command]) -> None:
        """An entry of this office was applied: tell whoever waited for it."""
        for client, reply in self.waiting.applied(applied, self._node.ledger):
            self.tell(client, reply)
        self._node.orders.applied(applied, commands)

    # --- office and out ---

    def take_office(self) -> None:
        """Whoever asked too early to be told of ends is told from now on."""
        early, self._early = self._early, []
        for client, request in early:
            self._watch(client, request.task_ids)

    def leave_office(self) -> None:
        """Whoever waits for an answer is told that there is none, unless the outcome is unknown."""
        for client, ask in self.waiting.clear():
            self.answer(client, ask.request, Code.UNAVAILABLE, NOT_SERVING)
        self._node.orders.leave_office()
        self.renewals.leave_office()

    def read_failed(self, read_id: int) -> None:
        for client, ask in self.waiting.take_read(read_id):
            self.answer(client, ask.request, Code.UNAVAILABLE, NOT_SERVING)

    def leader_changed(self) -> None:
        """Tell our clients whom to talk to. They will say again whatever they wait for."""
        self._early.clear()
        for client_id in self.known:
            self.hint(client_id)

    def hint(self, client_id: ClientId) -> None:
        node = self._node
        leader = node.raft.leader_id
        address = node.address_of(leader) if leader is not None else ""
        self.tell((HERE, client_id), LeaderHint(node.raft.term, leader, address))

    def answer(self, client: Client, request: int, code: int, message: str) -> None:
        self.tell(client, Answer(request, code, message, b""))

    def tell(self, client: Client, reply: ClientReply) -> None:
        """Send a reply the way its request came."""
        peer, client_id = client
        if peer == HERE:
            self._node.out.append(Reply(client_id, encode(reply)))
        else:
            self._node.out.append(Send(peer, Channel.DATA, encode(Relay(client_id, encode(reply)))))


def _entries_max(ask: Ask) -> int:
    return min(requests.limit(ask), ENTRIES_A_PAGE_MAX)
