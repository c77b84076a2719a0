"""Who counts in a quorum, as of which entry (Raft 6; one change at a time, Ongaro's thesis 4.1).

A configuration takes effect when its entry is appended, committed or not, and loses it when the entry is cut. The
history below is a part of the log and is cut by the function that cuts the log, so the roll-back cannot be forgotten.
"""

from collections.abc import Mapping

import msgspec

from mesh.config import FORGOTTEN_MAX
from mesh.durable import Configuration, Member
from mesh.ids import LogIndex, NodeId

_decoder = msgspec.msgpack.Decoder(Configuration)


def decode(data: bytes) -> Configuration | None:
    """The configuration in an entry's bytes; None if they hold none that a mesh could run under."""
    try:
        configuration = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return configuration if is_well_formed(configuration) else None


def is_well_formed(configuration: Configuration) -> bool:
    """There is a voter, and nobody is named twice."""
    ids = member_ids(configuration)
    return bool(configuration.voters) and len(set(ids)) == len(ids)


def member_ids(configuration: Configuration) -> tuple[NodeId, ...]:
    """Voters, then learners, in the order of the configuration."""
    return configuration.voter_ids + tuple(member.node_id for member in configuration.learners)


def is_single_change(old: Configuration, new: Configuration) -> bool:
    """At most one voter comes or goes: any two majorities of the two then share a node. Learners change freely.

    A voter with another log is another voter, so it cannot stay one by a single change.
    """
    if len(set(old.voter_ids) ^ set(new.voter_ids)) > 1:
        return False
    marks = {member.node_id: member.mark for member in old.voters}
    return all(marks.get(member.node_id, "") in ("", member.mark) for member in new.voters)


# --- what can be changed: each answers the same configuration if there is nothing to change ---------------------------


def with_learner(configuration: Configuration, learner: Member) -> Configuration:
    """With one learner more, or another address for it. If its id is there with another mark, that member is replaced
    and its log forgotten; a vote goes with it.
    """
    known = configuration.member(learner.node_id)
    if known is None:
        return _made(configuration, configuration.voters, (*configuration.learners, learner))
    if learner.mark in ("", known.mark) or not known.mark:
        if learner.node_id in configuration.voter_ids or known.address == learner.address:
            return configuration
        moved = Member(known.node_id, learner.address, known.mark, known.held_back)
        return _made(configuration, configuration.voters, (*_without(configuration.learners, known.node_id), moved))
    voters, learners = (_without(part, known.node_id) for part in (configuration.voters, configuration.learners))
    return _made(configuration, voters, (*learners, learner), known.mark)


def with_voter(configuration: Configuration, node_id: NodeId) -> Configuration:
    """A learner is given a vote."""
    learner = next((member for member in configuration.learners if member.node_id == node_id), None)
    if learner is None:
        return configuration
    voter = Member(learner.node_id, learner.address, learner.mark)
    return _made(configuration, (*configuration.voters, voter), _without(configuration.learners, node_id))


def without_vote(configuration: Configuration, node_id: NodeId, *, held_back: bool) -> Configuration:
    """A voter becomes a learner. `held_back`: by order, so that it, or one that is a learner already, stays one."""
    known = configuration.member(node_id)
    if known is None or (node_id not in configuration.voter_ids and known.held_back >= held_back):
        return configuration
    learner = Member(known.node_id, known.address, known.mark, held_back)
    voters, learners = (_without(part, node_id) for part in (configuration.voters, configuration.learners))
    return _made(configuration, voters, (*learners, learner))


def without(configuration: Configuration, node_id: NodeId) -> Configuration:
    """A node is removed, and its log forgotten."""
    known = configuration.member(node_id)
    if known is None:
        return configuration
    voters, learners = (_without(part, node_id) for part in (configuration.voters, configuration.learners))
    return _made(configuration, voters, learners, known.mark)


def with_marks(configuration: Configuration, marks: Mapping[NodeId, str]) -> Configuration:
    """Members whose log had no name yet are given the one they say it has."""
    news = {node_id: mark for node_id, mark in marks.items() if mark and mark not in configuration.forgotten}
    if all(member.mark or member.node_id not in news for member in configuration.members):
        return configuration

    def named(member: Member) -> Member:
        mark = member.mark or news.get(member.node_id, "")
        return Member(member.node_id, member.address, mark, member.held_back)

    voters, learners = (tuple(map(named, part)) for part in (configuration.voters, configuration.learners))
    return _made(configuration, voters, learners)


def _without(part: tuple[Member, ...], node_id: NodeId) -> tuple[Member, ...]:
    return tuple(member for member in part if member.node_id != node_id)


def _made(
    before: Configuration, voters: tuple[Member, ...], learners: tuple[Member, ...], forgotten: str = ""
) -> Configuration:
    marks = (*before.forgotten, forgotten) if forgotten else before.forgotten
    return Configuration(voters, learners, marks[-FORGOTTEN_MAX:])


class ConfigurationHistory:
    """The configurations of the log, each with the index of its entry; the last one is in force."""

    __slots__ = ("_history", "index", "latest", "members", "voter_ids")

    latest: Configuration
    index: LogIndex
    """Index of the entry that `latest` came with."""
    voter_ids: tuple[NodeId, ...]
    members: frozenset[NodeId]
    """Voters and learners. For asking who belongs, never for iterating."""

    def __init__(self, index: LogIndex, configuration: Configuration) -> None:
        self._history: list[tuple[LogIndex, Configuration]] = [(index, configuration)]
        self._adopt_last()

    def append(self, index: LogIndex, configuration: Configuration) -> None:
        """An entry with a configuration was appended at `index`."""
        assert index > self.index, f"configurations come in log order, not {index} after {self.index}"
        self._history.append((index, configuration))
        self._adopt_last()

    def at(self, index: LogIndex) -> Configuration:
        """The one in force as of the entry at `index`, which is not before the oldest one known."""
        return next((known for since, known in reversed(self._history) if since <= index), self._history[0][1])

    def since(self, node_id: NodeId, mark: str, *, by_name: bool) -> LogIndex:
        """Index of the latest one known that has this node with this log; 0 if none. `by_name`: a member whose log has
        no name yet is taken for it, unless a later one names another.
        """
        for index, known in reversed(self._history):
            member = known.member(node_id)
            if member is None:
                continue
            if member.mark == mark or (by_name and not member.mark):
                return index
            by_name = False
        return LogIndex(0)

    @property
    def before(self) -> Configuration:
        """The one that the latest replaced, committed before that was proposed; the latest if no other is known."""
        return self._history[-2:][0][1]

    @property
    def oldest_index(self) -> LogIndex:
        return self._history[0][0]

    def truncate(self, from_index: LogIndex) -> None:
        """The log was cut from `from_index` on. The oldest known configuration is committed and never cut."""
        while len(self._history) > 1 and self._history[-1][0] >= from_index:
            self._history.pop()
        self._adopt_last()

    def compact(self, before_index: LogIndex) -> None:
        """Entries up to `before_index` left the log: forget what was replaced by then."""
        while len(self._history) > 1 and self._history[1][0] <= before_index:
            self._history.pop(0)

    def _adopt_last(self) -> None:
        self.index, self.latest = self._history[-1]
        self.voter_ids = self.latest.voter_ids
        self.members = frozenset(member_ids(self.latest))
