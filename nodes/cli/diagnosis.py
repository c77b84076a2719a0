"""What is wrong with a mesh, and what to do about it: judged by its own documents (S4-41, S4-42). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from mesh.documents import (
    Agents,
    AgentView,
    CapabilityQueue,
    DeadLetterGroups,
    Explanation,
    NodeView,
    Queues,
    RaftStatus,
    SettingsView,
    Status,
)
from mesh.ledger.queue import POSITIONS_MAX
from nodes.cli.printing import clock, spell

CRITICAL: Final = "critical"
"""Nothing goes on, or what is held is in danger."""
SERIOUS: Final = "serious"
"""Some work does not get done, or soon will not."""
MINOR: Final = "minor"
"""Worth knowing."""
SEVERITIES: Final = (CRITICAL, SERIOUS, MINOR)

NEAR_FULL: Final = 0.8
"""From this share of a limit on, it is said that it is near."""
LOW_SCORE: Final = 0.75
"""A health score below this is worth knowing, though tasks are granted."""
TRAILS_MAX: Final = 10_000
"""Entries of the log that a node may be behind."""
EXPLAINED_MAX: Final = 20
"""Capabilities of which a waiting task is looked at."""
UNMOVED: Final = ("next", "held_back")
"""Why a task waits though a node is free (Explanation.reason). For a moment that is in order: so it is asked twice."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong: what, why it is thought so, and what to do. Whole sentences, each of them."""

    severity: str
    what: str
    why: str
    do: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the mesh says of itself. `waiting`: for a capability, a task that waits, as it was explained; once, or twice
    with some time between.
    """

    status: Status
    agents: Agents
    queues: Queues
    settings: SettingsView
    dead_letters: DeadLetterGroups
    raft: RaftStatus
    waiting: Mapping[str, Sequence[Explanation]] = field(default_factory=dict)

    @property
    def runners(self) -> list[AgentView]:
        """Those that have not left of their own accord."""
        left = {node.id for node in self.status.nodes if node.admin == "left"}
        return [agent for agent in self.agents.agents if agent.id not in left]


def findings(evidence: Evidence) -> list[Finding]:
    """All that is wrong, the worst first; nothing, if nothing is."""
    found = [
        *_leadership(evidence.status),
        *_tables(evidence.status),
        *_room(evidence),
        *_nodes(evidence.status),
        *_agents(evidence),
        *_queues(evidence),
        *_breakers(evidence.runners),
        *_log(evidence),
    ]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def to_explain(agents: Agents, queues: Queues) -> list[str]:
    """Capabilities of which it pays to ask why a task waits: not paused, and offered. Longest waits first."""
    offered = {name for agent in agents.agents if _is_active(agent) for name in agent.capabilities}
    asked = [one for one in queues.queues if one.waiting and not one.paused and one.capability in offered]
    asked.sort(key=lambda one: (-one.oldest_wait_ms, one.capability))
    return [one.capability for one in asked[:EXPLAINED_MAX]]


# --- who leads, and whether everybody has the same --------------------------------------------------------------------


def _leadership(status: Status) -> Iterator[Finding]:
    if status.quorum and not status.stale:
        return
    voters = [node for node in status.nodes if node.role == "voter"]
    failed = [node.id for node in voters if node.health == "failed"]
    seen = f"as {status.served_by or 'the node that answered'} sees it"
    if (len(voters) - len(failed)) * 2 <= len(voters):
        yield Finding(
            CRITICAL,
            "There is no quorum: nothing is accepted, and nothing is begun.",
            f"Of {len(voters)} voters, {len(failed)} have failed, {seen}: {_listed(failed)}.",
            "Start them again. If a majority of the voters is lost for good, one survivor can go on alone: "
            "mesh raft recover.",
        )
    elif status.leader is None:
        yield Finding(
            CRITICAL,
            "Nobody leads: nothing is accepted, and nothing is begun.",
            f"Of {len(voters)} voters, {len(voters) - len(failed)} are there, {seen}, and in term {status.term} none "
            "of them has been elected.",
            "Ask again in some seconds. If it stays so, see that the voters reach each other at the addresses that "
            "mesh members shows.",
        )
    else:
        yield Finding(
            CRITICAL,
            f"{status.leader} leads, and does not answer for the mesh.",
            f"No answer came in time that a majority stands behind, {seen}.",
            f"Ask again in some seconds. If it stays so, look at the log of {status.leader} and at its machine.",
        )


def _tables(status: Status) -> Iterator[Finding]:
    count = status.counters.get("tables_differ", 0)
    if count:
        yield Finding(
            CRITICAL,
            "Two nodes have different tables at one place in the log.",
            f"{status.served_by} has noticed it {_times(count)} since it was started; its log says of whom.",
            "Keep the data directories of both, and report it: this must not happen. Then forget the one that is "
            "wrong (mesh node forget ID), and let it join with an empty directory.",
        )


def _room(evidence: Evidence) -> Iterator[Finding]:
    queues = evidence.queues
    groups = evidence.dead_letters.groups
    most = f" Most frequent: {groups[0].count:,} of {groups[0].capability}, {groups[0].error}." if groups else ""
    dead = f"There are {queues.dead:,} dead letters, and {queues.dead_max:,} are the limit.{most}"
    look = "Look at them with mesh dlq list --group; then mesh dlq retry or mesh dlq drop."
    if queues.dead >= queues.dead_max:
        yield Finding(CRITICAL, "No task is accepted any more: there are too many dead letters.", dead, look)
    elif queues.dead >= NEAR_FULL * queues.dead_max:
        yield Finding(SERIOUS, "Soon no task will be accepted: there are many dead letters.", dead, look)
    kept = evidence.settings.settings.get("reserve_permille", 0)
    ordinary_max = queues.live_max - queues.live_max * kept // 1_000
    live = f"The mesh holds {queues.live:,} tasks, dead letters included, and {queues.live_max:,} are the limit."
    less = (
        "Add nodes, so that more is done at once; or cancel what need not be done (mesh task cancel, mesh queue clear)."
    )
    if queues.live >= ordinary_max:
        urgent = "" if queues.live >= queues.live_max else f" From {ordinary_max:,} on only urgent ones are taken."
        yield Finding(CRITICAL, "The mesh is full: tasks are refused.", live + urgent, less)
    elif queues.live >= NEAR_FULL * ordinary_max:
        yield Finding(SERIOUS, "The mesh is nearly full.", live, less)


# --- nodes ------------------------------------------------------------------------------------------------------------


def _nodes(status: Status) -> Iterator[Finding]:
    for node in status.nodes:
        if node.admin == "left":
            continue
        if node.health == "failed" and not node.incarnation:
            yield Finding(
                SERIOUS,
                f"{node.id} has not been discovered.",
                f"It takes part in the mesh at {node.address}, and no heartbeat of it was ever heard"
                + (f" by {status.served_by}." if status.served_by else "."),
                "See that it runs, that its four ports can be reached from the other nodes, and that it has the same "
                f"secret. If it is not to come back: mesh node forget {node.id}.",
            )
        elif node.health == "failed":
            yield Finding(
                SERIOUS,
                f"{node.id} has failed.",
                f"Its last heartbeat came {spell(node.last_heartbeat_ms)} ago.{_left_to_lose(status, node)}",
                f"Start it again. If it is lost for good: mesh node forget {node.id}.",
            )
        elif node.health != "healthy":
            yield Finding(
                MINOR,
                f"{node.id} is {node.health}.",
                f"Its last heartbeat came {spell(node.last_heartbeat_ms)} ago; it has failed "
                f"{_times(node.failure_count)}.",
                "Ask again in some seconds. If it comes and goes, look at its machine and at the network to it.",
            )
        if node.trouble:
            yield Finding(
                SERIOUS,
                f"{node.id} is in trouble.",
                f"It says: {node.trouble}",
                f"See its log, and mesh node show {node.id}.",
            )


def _left_to_lose(status: Status, node: NodeView) -> str:
    """For a voter: how many more the mesh can do without."""
    if node.role != "voter":
        return ""
    voters = [one for one in status.nodes if one.role == "voter"]
    alive = sum(one.health != "failed" for one in voters)
    more = max(0, alive - len(voters) // 2 - 1)
    return f" It is a voter: {more or 'none'} more may be lost before there is no quorum."


def _is_active(agent: AgentView) -> bool:
    return agent.status in ("active", "busy")


def _standing(agent: AgentView) -> str:
    """An agent that is not active, and what it is instead."""
    return f"{agent.id} is {agent.health if agent.health in ('failed', 'degraded') else 'draining'}"


def _agents(evidence: Evidence) -> Iterator[Finding]:
    agents = evidence.runners
    active = [agent for agent in agents if _is_active(agent)]
    if not active:
        yield Finding(
            SERIOUS,
            "No agent is active: nothing is begun.",
            f"{'; '.join(map(_standing, agents)) or 'There is none'}.",
            "Start nodes, or end their draining with mesh node undrain ID.",
        )
    elif not any(agent.capabilities for agent in active):
        yield Finding(
            SERIOUS,
            "No active agent offers anything: nothing is begun.",
            f"{_listed(agent.id for agent in active)} run no handlers.",
            "Start nodes with their code: --app MODULE:ATTRIBUTE. If they were, agent.log beside their data says more.",
        )
    least = evidence.settings.settings.get("health_permille_min", 0) / 1_000
    for agent in agents:
        if agent.health == "failed":
            continue
        why = f"Its health score is {agent.health_score:.2f}: {'; '.join(agent.causes) or 'no cause is given'}."
        if agent.health_score < least:
            yield Finding(
                SERIOUS,
                f"{agent.id} is given no tasks: it does too badly.",
                f"{why} Below {least:.2f} none is given.",
                f"Look at its machine and its log, and at mesh agent show {agent.id}.",
            )
        elif agent.health_score < LOW_SCORE:
            yield Finding(
                MINOR, f"{agent.id} does badly.", why, f"Look at its machine, and at mesh agent show {agent.id}."
            )


# --- tasks that wait --------------------------------------------------------------------------------------------------


def _queues(evidence: Evidence) -> Iterator[Finding]:
    for queue in evidence.queues.queues:
        if queue.paused:
            yield _paused(queue)
        if not queue.waiting:
            continue
        offering = [agent for agent in evidence.runners if queue.capability in agent.capabilities]
        if not any(_is_active(agent) for agent in offering):
            yield _unoffered(queue, offering, evidence.runners)
        elif not queue.paused:
            yield from _stuck(queue, evidence.waiting.get(queue.capability, ()))


def _paused(queue: CapabilityQueue) -> Finding:
    until = f" until {clock(queue.paused_until)}" if queue.paused_until else ""
    reason = f" Reason: {queue.reason}." if queue.reason else ""
    return Finding(
        MINOR,
        f"The queue of {queue.capability!r} is paused{until}.",
        f"Somebody ordered it; {_tasks(queue.waiting)}.{reason}",
        f"When the reason is gone: mesh queue resume {queue.capability}.",
    )


def _unoffered(queue: CapabilityQueue, offering: list[AgentView], agents: list[AgentView]) -> Finding:
    waiting = f"{_tasks(queue.waiting)} for {queue.capability!r}"
    waited = f"The first has waited {spell(queue.oldest_wait_ms)}."
    if offering:
        return Finding(
            SERIOUS,
            f"{waiting}, and no agent that offers it is active.",
            f"{'; '.join(map(_standing, offering))}. {waited}",
            "Start them again, or end their draining with mesh node undrain ID.",
        )
    offers = "; ".join(f"{agent.id} offers {_listed(agent.capabilities)}" for agent in agents if _is_active(agent))
    return Finding(
        SERIOUS,
        f"{waiting}, which no agent offers.",
        f"{offers}. {waited}" if offers else waited,
        "Start a node whose app has it (--app MODULE:ATTRIBUTE), or cancel them: mesh task cancel "
        f"capability={queue.capability}.",
    )


def _stuck(queue: CapabilityQueue, looks: Sequence[Explanation]) -> Iterator[Finding]:
    """By a task that was seen to wait."""
    if not looks:
        return
    first, last = looks[0], looks[-1]
    waiting = f"{_tasks(queue.waiting)} for {queue.capability!r}"
    if last.reason == "no_free_node" and "load" not in last.rejected:
        whys = "; ".join(f"{one.node} {one.why}" for one in last.nodes if one.filter != "capability")
        yield Finding(
            SERIOUS,
            f"{waiting}, and no node will do.",
            f"Of {last.id}: {whys}.",
            f"See mesh task explain {last.id}. Give a node what is asked for, or cancel what asks for it.",
        )
    elif len(looks) < 2 or first.reason != last.reason:
        return
    elif last.reason == "held_back":
        yield Finding(
            MINOR,
            f"{waiting}, held back though nodes are there.",
            f"Of {last.id}: {'; '.join(last.held_back_by)}.",
            "If that is not what is wanted, give the key or the rate a higher limit in what is submitted from now on.",
        )
    elif last.reason == "next" and _has_not_moved(first, last):
        yield Finding(
            SERIOUS,
            f"{waiting} though a node is free.",
            f"{last.id} has not come nearer: {last.summary}",
            "Ask again. If it stays so, let another node lead (mesh raft transfer ID), and report it.",
        )


def _has_not_moved(first: Explanation, last: Explanation) -> bool:
    """Whether the queue before a task stood still between two looks. Of a long one nobody can tell."""
    before, after = first.position or 0, last.position or 0
    return before <= after < POSITIONS_MAX


def _breakers(agents: list[AgentView]) -> Iterator[Finding]:
    opened: dict[str, list[str]] = {}
    for agent in agents:
        for breaker in agent.breakers:
            if breaker.state == "open":
                until = f", is tried again at {clock(breaker.until)}" if breaker.until else ""
                opened.setdefault(breaker.capability, []).append(
                    f"{agent.id} failed {_times(breaker.failures)}{' in a row' if breaker.failures > 1 else ''}{until}"
                )
    for capability, whys in sorted(opened.items()):
        offering = [agent for agent in agents if _is_active(agent) and capability in agent.capabilities]
        is_nobody_left = len(whys) >= len(offering)
        yield Finding(
            SERIOUS if is_nobody_left else MINOR,
            f"{'No node is' if is_nobody_left else 'Not every node is'} trusted with {capability!r} just now.",
            f"{'; '.join(whys)}.",
            "See what fails: mesh dlq list --group, mesh task show ID. Once it is mended a breaker closes by itself, "
            f"or at once: mesh agent close-breaker NODE {capability}.",
        )


# --- the log ----------------------------------------------------------------------------------------------------------


def _log(evidence: Evidence) -> Iterator[Finding]:
    failed = {node.id for node in evidence.status.nodes if node.health == "failed"}
    for peer in evidence.raft.peers:
        if peer.trails_by > TRAILS_MAX and peer.id not in failed:
            yield Finding(
                MINOR,
                f"{peer.id} is far behind.",
                f"It lacks {peer.trails_by:,} entries of the log.",
                "Ask again: it should become less. If it does not, look at its disk, and at the network to it.",
            )


def _times(count: int) -> str:
    return f"{count:,} times" if count != 1 else "once"


def _tasks(count: int) -> str:
    return f"{count:,} tasks wait" if count != 1 else "1 task waits"


def _listed(names: Iterator[str] | Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
