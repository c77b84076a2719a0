"""Which systems there are, in the order they take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.compare.peer import Peer
from bench.compare.peers.celery import CeleryPeer
from bench.compare.peers.dask import DaskPeer
from bench.compare.peers.dramatiq import DramatiqPeer
from bench.compare.peers.mesh import MeshPeer
from bench.compare.peers.nats import NatsPeer
from bench.compare.peers.rabbitmq import RabbitPeer
from bench.compare.peers.ray import RayPeer
from bench.compare.records import Mode

Make = Callable[[], Peer]

ROSTER: dict[str, Sequence[Make]] = {
    "mesh": (MeshPeer,),
    "celery": (lambda: CeleryPeer(Mode.FAST), lambda: CeleryPeer(Mode.DURABLE)),
    "dramatiq": (lambda: DramatiqPeer(Mode.FAST), lambda: DramatiqPeer(Mode.DURABLE)),
    "dask": (DaskPeer,),
    "ray": (RayPeer,),
    "nats": (lambda: NatsPeer(Mode.FAST), lambda: NatsPeer(Mode.DURABLE)),
    "rabbitmq": (lambda: RabbitPeer(Mode.FAST), lambda: RabbitPeer(Mode.DURABLE)),
}
"""By name: how to make it, once for each configuration."""
