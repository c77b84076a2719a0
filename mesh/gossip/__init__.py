"""Who is here and how they are: heartbeats heard, heartbeats missed, links that broke. Suggests; the ledger decides."""

from mesh.gossip.detector import Change, Detector
from mesh.gossip.members import Health, MemberState

__all__ = ["Change", "Detector", "Health", "MemberState"]
