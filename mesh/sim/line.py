"""A client's link to a node, what it was told over it, and what must be true of that."""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Protocol

import msgspec

from mesh.documents import Task as TaskDocument
from mesh.events import ClientGone, ClientMessage
from mesh.ids import ClientId, LogIndex, TaskId
from mesh.ledger.task import STATE_NAMES
from mesh.messages import Answer, ClientReply, ClientRequest, Code, TaskEnd
from mesh.sim.coverage import Coverage
from mesh.sim.history import History
from mesh.sim.machine import Machine
from mesh.sim.plan import Plan
from mesh.sim.schedule import Schedule
from mesh.sim.violation import Violation
from mesh.wire.codec import decode_reply, encode

ASKED_MAX = 16
"""Open questions a client remembers."""
REQUESTS_MAX = 1_000_000
"""Each client numbers its requests in a range of its own, so that an answer meant for another is noticed."""
READER_REQUESTS = 100 * REQUESTS_MAX
RULER_REQUESTS = 200 * REQUESTS_MAX


class Oracle(Protocol):
    """What clients were told. Implemented by the checker."""

    history: History

    def accepted(self, task_id: TaskId, index: LogIndex) -> None: ...
    def ended(self, end: TaskEnd) -> None: ...
    def is_acked(self, task_id: TaskId) -> bool: ...
    def acked_ids(self) -> list[TaskId]: ...
    def final_state(self, task_id: TaskId) -> int | None: ...


class Line:
    """A client's link to one node: it loses, doubles and delays like any other, and breaks with the node."""

    def __init__(
        self,
        plan: Plan,
        schedule: Schedule,
        roll: Random,
        machines: list[Machine],
        hear: Callable[[ClientReply], None],
        history: History,
    ) -> None:
        self._schedule = schedule
        self._dice = roll
        self._machines = machines
        self._hear = hear
        self._history = history
        self._link = 0
        self._delay_us = plan.delay_us
        self.loss = plan.strength("loss")
        self.duplicate = plan.strength("duplicate")
        self.machine: Machine | None = None
        self._incarnation = 0
        self._client = ClientId(0)

    @property
    def is_up(self) -> bool:
        """Whether the process that was dialled still runs."""
        return self.machine is not None and self.machine.is_up and self.machine.incarnation == self._incarnation

    def dial(self, number: int | None = None) -> bool:
        """Hang up, and dial a node: that one, or any. False if nobody answers."""
        self.hang_up()
        machine = self._machines[self._dice.randrange(len(self._machines)) if number is None else number]
        if not machine.is_up:
            return False
        self.machine, self._incarnation = machine, machine.incarnation
        self._link = self._history.new_link()
        self._client = machine.new_client(partial(self._to_me, self._link))
        return True

    def hang_up(self) -> None:
        """The node may notice."""
        if self.is_up and self.machine is not None:
            self.machine.clients.pop(self._client, None)
            if self._dice.random() < 0.7:
                self._schedule.after(self._pause_us(), self._deliver, self.machine, ClientGone(self._client))
        self.machine = None

    def say(self, request: ClientRequest) -> None:
        """Send a request, if there is a line."""
        if not self.is_up or self.machine is None:
            return
        self._history.invoked(self._link, request)
        event = ClientMessage(self._client, encode(request))
        if self._dice.random() * 1_000 >= self.loss:
            self._schedule.after(self._pause_us(), self._deliver, self.machine, event)
        if self.duplicate and self._dice.random() * 1_000 < self.duplicate:
            self._schedule.after(self._pause_us() * 3, self._deliver, self.machine, event)

    def _pause_us(self) -> int:
        return self._delay_us // 4 + int(self._dice.expovariate(1.0) * self._delay_us)

    def _deliver(self, machine: Machine, event: ClientMessage | ClientGone) -> None:
        if machine.is_up and machine.incarnation == self._incarnation:
            machine.receive(event)

    def _to_me(self, link: int, data: bytes) -> None:
        if self._dice.random() * 1_000 >= self.loss:
            self._schedule.after(self._pause_us(), self._arrive, link, decode_reply(data))

    def _arrive(self, link: int, reply: ClientReply) -> None:
        self._history.heard(link, reply)
        self._hear(reply)


def read_is_fresh(coverage: Coverage, answer: Answer, task_id: TaskId, final: int | None) -> None:
    """25: a task that was acked is found, and one that was told to have ended for good is read so."""
    if answer.code == Code.NOT_FOUND:
        raise Violation("25 reads are linearizable", "an acked task was not found", task_id)
    if answer.code != Code.OK:
        return
    coverage.add("read answered")
    state = msgspec.msgpack.decode(answer.body, type=TaskDocument).state
    if final is not None and state != STATE_NAMES[final]:
        raise Violation("25 reads are linearizable", f"ended as {STATE_NAMES[final]}, then read as {state}", task_id)
