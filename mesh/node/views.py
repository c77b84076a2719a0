"""What people see of scheduling: nodes as runners of tasks, queues, schedules, settings, dead letters by error."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from mesh import documents
from mesh.dispatch.candidates import Candidates
from mesh.dispatch.in_flight import InFlight
from mesh.dispatch.placement import Candidate
from mesh.gossip.members import Health
from mesh.ids import NodeId
from mesh.ledger import breakers, limits
from mesh.ledger.registry import Cron
from mesh.ledger.settings import BOUNDS, Strategy
from mesh.ledger.task import DEAD, DISPATCHED, PENDING, RUNNING, SCHEDULED, Task
from mesh.messages import Ask, Code
from mesh.node.requests import Client
from mesh.options import CatchUp, Overlap

if TYPE_CHECKING:
    from mesh.node.node import Node

GROUPS_MAX: Final = 1_000
QUEUES_SHOWN_MAX: Final = 10_000
_NUMBERS = re.compile(r"\d+")


def agents(node: Node) -> documents.Agents:
    """All nodes, with their score. How their attempts fare is the leader's to know; others show what gossip tells."""
    ledger = node.ledger
    candidates = _candidates(node)
    views = [
        _agent(node, candidates[member.node_id], member.health, node.address_of(member.node_id))
        for member in node.detector.members()
    ]
    return documents.Agents(Strategy(ledger.settings.strategy).name.lower(), views)


def _candidates(node: Node) -> dict[NodeId, Candidate]:
    """All members, as the leader sees them, or as they look from here."""
    dispatcher, ledger = node.leading.dispatcher, node.ledger
    if dispatcher.in_office:
        dispatcher.refresh()
        return dispatcher.candidates
    seen = Candidates(ledger, node.detector, InFlight())
    seen.refresh({}, lambda node_id: len(ledger.holder_leases(node_id)))
    return seen.all


def _agent(node: Node, candidate: Candidate, health: Health, address: str) -> documents.AgentView:
    ledger = node.ledger
    running = len(ledger.holder_leases(candidate.node_id))
    at_ms = node.leading.log_ms()
    return documents.AgentView(
        id=candidate.node_id,
        address=address,
        type=candidate.kind or "general",
        status=_status(candidate, health, running),
        health=health.word,
        health_score=candidate.score_permille / 1_000,
        causes=list(candidate.causes),
        capabilities=sorted(candidate.capabilities),
        labels=candidate.labels,
        slots=candidate.slots,
        running=running,
        cpu=candidate.cpu_permille / 1_000,
        memory=candidate.memory_permille / 1_000,
        versions=candidate.versions,
        breakers=[
            documents.BreakerView(
                breaker.capability,
                breakers.word(breaker, at_ms, ledger.settings.breaker_open_ms),
                breaker.failures,
                breaker.opened_at_ms + ledger.settings.breaker_open_ms if breaker.opened_at_ms else None,
            )
            for breaker in ledger.breakers.values()
            if breaker.node_id == candidate.node_id
        ],
        mean_ms=candidate.mean_ms,
    )


def _status(candidate: Candidate, health: Health, running: int) -> str:
    """S4-16, from health, load and what was decided."""
    if health is Health.FAILED or candidate.draining:
        return "inactive"
    if health is Health.DEGRADED:
        return "stale"
    return "busy" if candidate.slots and running >= candidate.slots else "active"


def settings(node: Node) -> documents.SettingsView:
    ledger = node.ledger
    return documents.SettingsView({name: getattr(ledger.settings, name) for name in BOUNDS}, ledger.level)


def crons(node: Node) -> documents.Crons:
    return documents.Crons([_cron(cron) for _, cron in sorted(node.ledger.crons.items())])


def _cron(cron: Cron) -> documents.CronView:
    spec = cron.spec
    return documents.CronView(
        name=spec.name,
        expression=spec.expression,
        zone=spec.zone,
        capability=spec.capability,
        next=None if spec.is_paused else cron.next_ms,
        overlap=Overlap(spec.overlap).name.lower(),
        catch_up=CatchUp(spec.catch_up).name.lower(),
        paused=spec.is_paused,
        fired=cron.fired,
        skipped=cron.skipped,
        last_task=cron.last_task or None,
    )


class _Counted(msgspec.Struct):
    waiting: int = 0
    running: int = 0
    oldest_ms: int | None = None


def queues(node: Node, client: Client, ask: Ask) -> None:
    """How much waits for what. Counted a slice a turn; the answer is of several moments when there is much."""
    ledger = node.ledger
    counted: dict[str, _Counted] = {}
    by_priority: dict[int, int] = {}

    def see(task: Task) -> None:
        spec = task.spec
        if task.state not in (PENDING, SCHEDULED, DISPATCHED, RUNNING):
            return
        count = counted.get(spec.capability)
        if count is None:
            if len(counted) >= QUEUES_SHOWN_MAX:
                return
            count = counted[spec.capability] = _Counted()
        if task.state in (DISPATCHED, RUNNING):
            count.running += 1
            return
        count.waiting += 1
        by_priority[spec.priority] = by_priority.get(spec.priority, 0) + 1
        if count.oldest_ms is None or task.submitted_at_ms < count.oldest_ms:
            count.oldest_ms = task.submitted_at_ms

    def done() -> None:
        at_ms = node.leading.log_ms()
        for name in ledger.pauses:
            if limits.is_paused(ledger, name, at_ms):
                counted.setdefault(name, _Counted())
        views = [_queue(node, name, count, at_ms) for name, count in sorted(counted.items())]
        document = documents.Queues(
            views,
            dict(sorted(by_priority.items())),
            len(ledger.tasks),
            node.config.dispatch.queued_max,
            ledger.counts[DEAD],
            ledger.settings.dead_letters_max,
        )
        node.clients.document(client, ask, document)

    _sweep(node, client, ask, see, done)


def _queue(node: Node, name: str, count: _Counted, at_ms: int) -> documents.CapabilityQueue:
    is_paused = limits.is_paused(node.ledger, name, at_ms)
    pause = node.ledger.pauses.get(name) if is_paused else None
    return documents.CapabilityQueue(
        name,
        count.waiting,
        count.running,
        0 if count.oldest_ms is None else max(0, at_ms - count.oldest_ms),
        is_paused,
        (pause.until_ms or None) if pause is not None else None,
        pause.reason if pause is not None else "",
    )


def dead_letter_groups(node: Node, client: Client, ask: Ask) -> None:
    """Dead letters by capability and error, those that are most first. Numbers in an error do not tell errors apart."""
    groups: dict[tuple[str, str], documents.DeadLetterGroup] = {}

    def see(task: Task) -> None:
        if task.state != DEAD:
            return
        error = _NUMBERS.sub("#", task.error.partition("\n")[0])[:200]
        key = task.spec.capability, error
        group = groups.get(key)
        if group is None:
            if len(groups) >= GROUPS_MAX:
                return
            at_ms, task_id = task.finished_at_ms, task.spec.task_id
            group = groups[key] = documents.DeadLetterGroup(*key, 0, at_ms, at_ms, task_id)
        group.count += 1
        group.first_at = min(group.first_at, task.finished_at_ms)
        if task.finished_at_ms >= group.last_at:
            group.last_at, group.example = task.finished_at_ms, task.spec.task_id

    def done() -> None:
        found = sorted(groups.values(), key=lambda group: (-group.count, group.capability, group.error))
        node.clients.document(client, ask, documents.DeadLetterGroups(found))

    _sweep(node, client, ask, see, done)


def _sweep(node: Node, client: Client, ask: Ask, see: Callable[[Task], None], done: Callable[[], None]) -> None:
    if not node.sweeps.begin(node.ledger.tasks.values(), see, done):
        node.clients.answer(client, ask.request, Code.BACKPRESSURE, "too many sweeps wait; try again")
