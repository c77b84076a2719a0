"""How often a node says that it is there."""

from random import Random

from mesh.config import GossipConfig, NodeConfig
from mesh.durable import Recovered
from mesh.effects import Publish
from mesh.events import DeadlineReached
from mesh.ids import Term
from mesh.node.node import Node
from mesh.wire.codec import decode_heartbeat


def test_a_node_beats_every_nine_tenths_of_an_interval() -> None:
    """S0-08: woken whenever it asks to be, ana publishes at 0, 900, 1,800, ... so that none need be waited for longer
    than an interval.
    """
    gossip = GossipConfig(heartbeat_interval_ms=1_000)
    config = NodeConfig(
        node_id="ana", cluster="c", incarnation=1, address="ana:1", voters=(("ana", "ana:1"),), gossip=gossip
    )
    node = Node(config, Recovered(None, [], Term(0), None, [], [], 0), Random(7), 0)
    beats: list[tuple[int, int]] = []
    now_ms = 0
    while now_ms <= 5_000:
        for effect in node.handle(DeadlineReached(), now_ms):
            if isinstance(effect, Publish):
                beats.append((decode_heartbeat(effect.data).sequence, now_ms))
        now_ms = max(now_ms + 1, node.next_deadline_ms())
    assert beats == [(1, 0), (2, 900), (3, 1_800), (4, 2_700), (5, 3_600), (6, 4_500)]
