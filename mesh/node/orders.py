"""Writes that are not submits: commands for the ledger, who leads, who takes part and who has a vote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.config import VOTERS_MAX
from mesh.durable import Configuration
from mesh.ids import LogIndex, NodeId, TaskId
from mesh.ledger.applied import Applied
from mesh.ledger.commands import (
    BY_HAND,
    CancelTask,
    Command,
    DrainNode,
    DropDeadLetter,
    FailNode,
    RedriveTask,
    SaveCheckpoint,
    SubmitTask,
)
from mesh.ledger.task import DISPATCHED, RUNNING
from mesh.messages import Action, Code, Order
from mesh.node import requests, rulings
from mesh.node.membership import Facts, can_commit
from mesh.node.requests import Asked, Client
from mesh.raft.configuration import with_learner, with_voter, without, without_vote

if TYPE_CHECKING:
    from mesh.node.node import Node

ORDERS_MAX = 10_000
CONFIGURING = "the configuration cannot be changed just now; nothing was done, try again"
_ORDERED = frozenset({CancelTask, RedriveTask, DropDeadLetter, SaveCheckpoint, DrainNode, FailNode, *rulings.COMMANDS})
_MANY = frozenset({Action.CANCEL_MANY, Action.CLEAR, Action.RETRY_MANY, Action.DROP_MANY})
_MEMBERSHIP = frozenset({Action.ADD_LEARNER, Action.ADD_VOTER, Action.REMOVE_VOTER, Action.FORGET})


class Orders:
    """Orders on their way, at the node in office."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._proposed: dict[Command, list[Asked]] = {}
        """Orders proposed and not yet applied."""
        self._count = 0
        self._configuring: dict[LogIndex, list[Asked]] = {}
        """The same for configurations, by the index of their entry."""
        self._votes: dict[NodeId, list[Asked]] = {}
        """Learners that are to be given a vote as soon as they have caught up."""

    def order(self, client: Client, order: Order) -> None:
        """A command, or a matter of who leads and who takes part."""
        node = self._node
        if order.action == Action.TRANSFER:
            self._transfer(client, order)
            return
        dispatcher = node.leading.dispatcher
        if self._count >= ORDERS_MAX or (order.action == Action.REBALANCE and dispatcher.gathered >= ORDERS_MAX):
            self._answer(client, order, Code.BACKPRESSURE, "too many orders wait; try again")
            return
        if order.action in _MEMBERSHIP:
            self._change(client, order)
            return
        if order.action in _MANY:
            self._begin_many(client, order)
            return
        if order.action == Action.REBALANCE:
            released = node.leading.rebalance()
            self._answer(client, order, Code.OK, f"{released} leases given back")
            return
        command = self._command(order)
        if isinstance(command, tuple):
            self._answer(client, order, *command)
            return
        self._count += 1
        asked = self._proposed.setdefault(command, [])
        asked.append((client, order.request))
        if len(asked) == 1:  # Proposed twice, it might be done again after both were told that it was.
            dispatcher.command(command)

    # --- commands ---

    def _command(self, order: Order) -> Command | tuple[Code, str]:
        """The command an order stands for, or why there is none."""
        target = order.target
        ledger = self._node.ledger
        if order.action == Action.CANCEL:
            return CancelTask(TaskId(target), order.reason)
        if order.action == Action.RETRY:
            if order.value and not ledger.level:
                return Code.UNAVAILABLE, rulings.NOT_YET
            return RedriveTask(TaskId(target), order.value or None)
        if order.action == Action.DROP:
            return DropDeadLetter(TaskId(target), order.reason)
        if order.action == Action.CHECKPOINT:
            task = ledger.tasks.get(TaskId(target))
            if task is None or task.state not in (DISPATCHED, RUNNING):
                return Code.NOT_FOUND, f"no attempt of task {target!r} runs; only a running attempt has a checkpoint"
            return SaveCheckpoint(task.spec.task_id, task.token, BY_HAND, order.value)
        if order.action in rulings.MAKERS:
            return rulings.command(order, ledger, self._node.leading.log_ms())
        if order.action not in (Action.DRAIN, Action.UNDRAIN, Action.RECOVER):
            return Code.INVALID, f"unknown action {order.action}"
        record = ledger.nodes.get(NodeId(target))
        if record is None:
            return Code.NOT_FOUND, f"there is no node {target!r}"
        if order.action == Action.RECOVER:
            return FailNode(NodeId(target), record.incarnation, order.reason or "given up by hand")
        return DrainNode(NodeId(target), order.action == Action.DRAIN)

    def _begin_many(self, client: Client, order: Order) -> None:
        """An order that means many tasks."""
        selection = rulings.selection(order)
        if isinstance(selection, str):
            self._answer(client, order, Code.INVALID, selection)
        else:
            self._node.many.begin(client, order, selection)

    def applied(self, applied: Applied, commands: list[Command]) -> None:
        """An entry of this office was applied: tell whoever waited for what is in it."""
        if not self._proposed:
            return
        renewed = {command.spec.task_id for command in commands if type(command) is SubmitTask and command.renews}
        for position, command in enumerate(commands):
            if type(command) in _ORDERED:
                task_id = getattr(command, "task_id", None)
                has_ended = task_id in self._node.ledger.finished or task_id in renewed
                is_ruling = type(command) in rulings.COMMANDS
                code, text = requests.order_answer(applied.outcomes[position], has_ended=has_ended, is_ruling=is_ruling)
                for client, request in self._proposed.pop(command, ()):
                    self._count -= 1
                    self._node.clients.answer(client, request, code, text)

    # --- who leads ---

    def _transfer(self, client: Client, order: Order) -> None:
        raft = self._node.raft
        if order.target == self._node.node_id:
            self._answer(client, order, Code.OK, f"{order.target} leads already")
        elif order.target not in raft.configuration.voter_ids:
            self._answer(client, order, Code.NOT_FOUND, f"{order.target!r} is not a voter")
        elif raft.transfer(NodeId(order.target), self._node.now_ms):
            self._answer(client, order, Code.OK, f"leadership goes to {order.target}")
        else:
            self._answer(client, order, Code.REFUSED, "leadership cannot be handed over just now; try again")

    # --- who takes part, and who has a vote ---

    def _change(self, client: Client, order: Order) -> None:
        """Propose the configuration that is asked for, or wait for the one that says so already."""
        raft, membership = self._node.raft, self._node.membership
        changed = self._changed(order)
        if changed is None:
            asked = self._votes.setdefault(NodeId(order.target), [])
            if (client, order.request) not in asked:
                self._count += 1
                asked.append((client, order.request))
            membership.check()
            return
        if isinstance(changed, tuple):
            self._answer(client, order, *changed)
            return
        if changed is raft.configuration:
            index: LogIndex | None = raft.configuration_index
        elif not can_commit(changed, membership.facts()):
            text = "no majority of the voters left would be alive to agree; remove the failed ones first"
            self._answer(client, order, Code.REFUSED, text)
            return
        else:
            index = membership.propose(changed)
        if index is None:
            self._answer(client, order, Code.UNAVAILABLE, CONFIGURING)
        elif index <= self._node.ledger.applied_index:
            self._answer(client, order, Code.OK, "already so")
        else:
            if order.action in (Action.REMOVE_VOTER, Action.FORGET):
                self._take_back_vote(NodeId(order.target))
            self._count += 1
            self._configuring.setdefault(index, []).append((client, order.request))

    def _take_back_vote(self, node_id: NodeId) -> None:
        """A vote that was waited for is not wanted any more."""
        for client, request in self._votes.pop(node_id, ()):
            self._count -= 1
            text = f"{node_id} was told to go without a vote before it had caught up"
            self._node.clients.answer(client, request, Code.REFUSED, text)

    def _changed(self, order: Order) -> Configuration | tuple[Code, str] | None:
        """The configuration an order asks for, or why there is none; None if a learner must catch up first."""
        configuration = self._node.raft.configuration
        if order.action == Action.ADD_LEARNER:
            learner = requests.member(order.target)
            if learner is None:
                return Code.INVALID, f"a node is named ID@HOST:PORT, not {order.target!r}"
            return with_learner(configuration, learner)
        node_id = NodeId(order.target)
        is_voter = node_id in configuration.voter_ids
        if configuration.member(node_id) is None:
            hint = "; start it there with `mesh node run --join`" if order.action == Action.ADD_VOTER else ""
            return Code.NOT_FOUND, f"{order.target!r} does not take part in this mesh{hint}"
        if order.action == Action.ADD_VOTER:
            if not is_voter and len(configuration.voters) >= VOTERS_MAX:
                return Code.REFUSED, f"there are {VOTERS_MAX} voters, more there cannot be; remove one first"
            return configuration if is_voter else None
        if is_voter and len(configuration.voters) == 1:
            return Code.REFUSED, f"{node_id} is the only voter; give another node a vote first"
        if node_id == self._node.node_id:
            return self._hand_over()
        if order.action == Action.REMOVE_VOTER:
            return without_vote(configuration, node_id, held_back=True)
        return without(configuration, node_id)

    def _hand_over(self) -> tuple[Code, str]:
        """A leader is removed by its successor."""
        raft = self._node.raft
        heirs = self._node.membership.heirs()
        if heirs and raft.transfer(heirs[0], self._node.now_ms):
            return Code.UNAVAILABLE, f"{self._node.node_id} leads, and hands over to {heirs[0]} first; try again"
        return Code.REFUSED, f"{self._node.node_id} leads, and no other voter could take over just now; try again"

    def wanted(self, facts: Facts) -> Configuration | None:
        """The configuration with a vote for a learner that was waited for, if one has caught up."""
        now = self._node.raft.configuration
        for node_id in self._votes:
            if node_id in facts.caught_up and node_id not in facts.failed_ms and len(now.voters) < VOTERS_MAX:
                changed = with_voter(now, node_id)
                if changed is not now and can_commit(changed, facts):
                    return changed
        return None

    def configured(self, index: LogIndex) -> None:
        """A configuration is committed: tell whoever waited for it."""
        node = self._node
        done = self._configuring.pop(index, [])
        now = node.raft.configuration_at(index)
        for voter in now.voter_ids:
            done += self._votes.pop(voter, ())
        for waits in [name for name in self._votes if now.member(name) is None or len(now.voters) >= VOTERS_MAX]:
            self._take_back_vote(waits)
        for client, request in done:
            self._count -= 1
            node.clients.answer(client, request, Code.OK, "done")
        node.membership.check()

    # --- out ---

    def leave_office(self) -> None:
        """Whoever waits hears nothing and asks again: what was proposed may yet be committed."""
        self._proposed.clear()
        self._configuring.clear()
        self._votes.clear()
        self._count = 0

    def _answer(self, client: Client, order: Order, code: Code, text: str) -> None:
        self._node.clients.answer(client, order.request, code, text)
