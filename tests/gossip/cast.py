"""Who appears in these tests, and what they say. ana is always the one who watches."""

from mesh.gossip import Health
from mesh.ids import Incarnation, LogIndex, NodeId, Term
from mesh.messages import Heartbeat, PeerView

CAST = ANA, BEN, DAN, EVA, FAY = tuple(NodeId(name) for name in ("ana", "ben", "dan", "eva", "fay"))


def beat(
    node_id: NodeId,
    sequence: int,
    *,
    incarnation: int = 1,
    cluster: str = "c",
    lost: tuple[NodeId, ...] = (),
    lost_incarnation: int = 1,
) -> Heartbeat:
    """A heartbeat. To `lost`, nodes of `lost_incarnation`, the sender's link is down; to all others it is up."""
    return Heartbeat(
        cluster=cluster,
        node_id=node_id,
        incarnation=Incarnation(incarnation),
        sequence=sequence,
        address=f"{node_id}:1",
        pid=1,
        slots=8,
        running=0,
        draining=False,
        capabilities=(),
        labels=(),
        held=(),
        held_total=0,
        term=Term(1),
        leader=None,
        commit=LogIndex(0),
        applied=LogIndex(0),
        digest=b"",
        views=tuple(
            PeerView(peer, Incarnation(lost_incarnation if peer in lost else 1), Health.HEALTHY, peer not in lost)
            for peer in CAST
            if peer != node_id
        ),
    )
