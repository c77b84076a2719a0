"""Points to pictures, one a part. Both axes are logarithmic."""

from __future__ import annotations

from bench.curves.records import Curves
from bench.svg import Series, lines

CPU = "microseconds of CPU per task, all processes"


def depth(found: Curves) -> str:
    """A million queued tasks should cost those that are not queued nothing."""
    past = [(float(one.queued), one.cpu_us) for one in found.depth]
    into = [(float(one.queued), one.fill_cpu_us) for one in found.depth]
    series = [Series("a no-op task that goes past the queue", past), Series("a submit that joins the queue", into)]
    return lines("What a task costs with a long queue", "tasks queued", CPU, series)


def payload(found: Curves) -> str:
    """Where the bytes begin to cost more than the task."""
    points = [(one.kib, one.cpu_us) for one in found.payload]
    series = [Series("there as payload, back as result", points)]
    return lines("What a task costs with a large payload", "payload, KiB", CPU, series)


def flight(found: Curves) -> str:
    """What batching saves."""
    points = [(float(one.in_flight), one.cpu_us) for one in found.flight]
    return lines("What a task costs with few or many in flight", "awaits in flight", CPU, [Series("CPU", points)])


def nodes(found: Curves) -> str:
    """Each figure in its own unit, which its name says."""
    series = [
        Series("CPU per task, us", [(float(one.nodes), one.cpu_us) for one in found.nodes]),
        Series("idle CPU of a node, ms per second", [(float(one.nodes), one.idle_cpu_ms) for one in found.nodes]),
        Series("SIGKILL to verdict, ms", [(float(one.nodes), one.detect_ms or 0.0) for one in found.nodes]),
    ]
    return lines("What nodes cost", "node processes, all on one machine", "", series)


def gossip(found: Curves) -> str:
    """Each figure in its own unit, which its name says."""
    series = [
        Series("heard, KiB per interval", [(float(one.nodes), one.heard_bytes / 1_024) for one in found.gossip]),
        Series("CPU of hearing it, ms per interval", [(float(one.nodes), one.hear_cpu_ms) for one in found.gossip]),
        Series("CPU until a lost node is judged, ms", [(float(one.nodes), one.broken_cpu_ms) for one in found.gossip]),
    ]
    return lines("What heartbeats cost a node", "nodes, of which one is simulated", "", series)


PLOTS = {"gossip": gossip, "payload": payload, "flight": flight, "nodes": nodes, "depth": depth}
