"""What one node knows of another: one record each, changed only by detector.py."""

from dataclasses import dataclass
from enum import IntEnum

from mesh.ids import Incarnation, NodeId
from mesh.messages import Heartbeat


class Health(IntEnum):
    """How a node is, as far as it can be heard. The numbers travel in PeerView.health."""

    HEALTHY = 0
    DEGRADED = 1
    """Has missed a heartbeat."""
    FAILED = 2
    """Has missed failure_threshold of them, or a majority has lost its link to it."""
    RECOVERING = 3
    """Heard again after a failure, or started anew; not yet for long."""

    @property
    def word(self) -> str:
        """As people read it: `healthy`."""
        return self.name.lower()


@dataclass(slots=True)
class MemberState:
    """One node as seen from here. Times are this machine's monotonic milliseconds and mean nothing elsewhere.

    `incarnation` is 0, and `last` None, until something has been heard. `last` is the latest heartbeat of this
    incarnation, `heard_ms` when the latest of any arrived. Silence is judged from `awaited_ms`: the same, or the start
    of the watch, or later if it was us who slept; `missed` heartbeats have not come since, and `spared` says that the
    next one was given more time because of that.
    `recovered_beats` counts heartbeats in a row since it began to recover; `failure_count` the verdicts.
    `link_down_ms` is when our link to it broke; None while it is up, and if it was never up. `watched_ms` is the start
    of the watch; `link_told` says that the broken link was reported a second time.
    """

    node_id: NodeId
    address: str
    awaited_ms: int
    last: Heartbeat | None = None
    incarnation: Incarnation = Incarnation(0)
    health: Health = Health.HEALTHY
    heard_ms: int | None = None
    missed: int = 0
    spared: bool = False
    failure_count: int = 0
    recovered_beats: int = 0
    link_up: bool = False
    link_down_ms: int | None = None
    watched_ms: int = 0
    link_told: bool = False

    def says_link_is_down(self, peer: "MemberState", since_ms: int) -> bool:
        """Has it told us, after `since_ms`, that its own link to this incarnation of `peer` is down?"""
        if self.last is None or self.heard_ms is None or self.heard_ms <= since_ms:
            return False
        return any(
            view.node_id == peer.node_id and view.incarnation == peer.incarnation and not view.link_up
            for view in self.last.views
        )
