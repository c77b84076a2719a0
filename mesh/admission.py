"""Who may speak with whom: what a node that knocks says of itself, and what the configuration says of it.

A node id stands for one log. The log is named by a mark, minted with its data directory; a node that lost its directory
comes back under another mark, and what the old one promised does not bind it. So its word must not count until the mesh
has taken it in anew (consensus A5, D15).
"""

from enum import IntEnum

import msgspec

from mesh.durable import Member
from mesh.ids import LogIndex, NodeId


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """A node in its own words. `since` is the index of the latest configuration it knows that has its id and mark; 0 if
    none.
    """

    node_id: NodeId
    mark: str
    since: LogIndex


class Roll(msgspec.Struct, frozen=True):
    """Everybody who belongs, voters and learners, as of the configuration at `index`."""

    index: LogIndex
    is_committed: bool
    members: tuple[Member, ...]
    forgotten: tuple[str, ...] = ()
    """Marks of logs that were removed or replaced."""
    before: tuple[Member, ...] = ()
    """While this one is not committed: the members of the last that is. The change may yet be undone, perhaps by one of
    them, so they are not shut out by it.
    """

    @property
    def everybody(self) -> tuple[Member, ...]:
        """Whom to keep links to."""
        ids = {member.node_id for member in self.members}
        return self.members + tuple(member for member in self.before if member.node_id not in ids)


class Verdict(IntEnum):
    """What becomes of a node that knocks. The numbers travel in a refusal."""

    ACCEPTED = 0
    STRANGER = 1
    """Not in the mesh, or not any more by a change that may yet be undone. It may ask to be taken in."""
    REPLACED = 2
    """Its id is here with another log. It may ask to take that one's place, as a learner."""
    REMOVED = 3
    """It was in the mesh, and a committed configuration is without it. It never comes back with this log."""


def judge(roll: Roll, standing: Standing) -> Verdict:
    """Whether this node may be spoken with.

    Whoever knows of a later configuration than we do, with itself in it, is taken at its word: without that, a node
    that lags could not be reached by those who came since (Ongaro's thesis 4.1).
    """
    if any(member.node_id == standing.node_id and member.mark in ("", standing.mark) for member in roll.before):
        return Verdict.ACCEPTED
    if standing.mark and standing.mark in roll.forgotten:
        return Verdict.REMOVED if roll.is_committed else Verdict.STRANGER
    known = next((member for member in roll.members if member.node_id == standing.node_id), None)
    if known is not None and known.mark in ("", standing.mark):
        return Verdict.ACCEPTED
    if standing.since > roll.index:
        return Verdict.ACCEPTED
    if known is not None:
        return Verdict.REPLACED
    return Verdict.STRANGER if standing.since == 0 or not roll.is_committed else Verdict.REMOVED
