"""Points of each curve. CPU is that of client, nodes and agents together, in microseconds per task unless said."""

from __future__ import annotations

import msgspec

VERSION = 1


class DepthPoint(msgspec.Struct):
    """With so many tasks queued that nobody offers to run."""

    queued: int
    fill_cpu_us: float
    """Per submit, while the queue was filled up to there; awaited until accepted."""
    cpu_us: float
    tasks_per_s: float
    p50_ms: float
    """One at a time."""
    rss_mib: float
    """Of the node that uses most."""


class PayloadPoint(msgspec.Struct):
    """With payloads of so many KiB, and results of the same."""

    kib: float
    cpu_us: float
    tasks_per_s: float
    mib_per_s: float


class FlightPoint(msgspec.Struct):
    """With so many awaits in flight."""

    in_flight: int
    cpu_us: float
    tasks_per_s: float


class NodesPoint(msgspec.Struct):
    """With so many node processes, all on this machine. `idle_cpu_ms` is of one node in a second without tasks."""

    nodes: int
    voters: int
    cpu_us: float
    tasks_per_s: float
    idle_cpu_ms: float
    detect_ms: float | None
    """From a SIGKILL to the verdict; None: none was committed."""


class GossipPoint(msgspec.Struct):
    """With so many nodes, of which one is simulated in full. Per node and interval, unless said."""

    nodes: int
    beat_bytes: int
    """One heartbeat."""
    heard_bytes: int
    say_cpu_ms: float
    hear_cpu_ms: float
    silent_ms: int
    """From the last heartbeat of a node that is paused to the verdict, in simulated time."""
    broken_ms: int
    """From the moment links to a node break to the verdict, in simulated time."""
    broken_cpu_ms: float
    """CPU of one node meanwhile."""


class Curves(msgspec.Struct, omit_defaults=True):
    """What one run measured; parts that were not in it are empty. `hot_path_us` is the yardstick's CPU, same run."""

    version: int
    machine: str
    python: str
    hot_path_us: float
    depth: list[DepthPoint] = []
    payload: list[PayloadPoint] = []
    flight: list[FlightPoint] = []
    nodes: list[NodesPoint] = []
    gossip: list[GossipPoint] = []
