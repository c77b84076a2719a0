"""Who counts in a quorum, as of which entry (Raft 6; one change at a time, Ongaro's thesis 4.1).

A configuration takes effect when its entry is appended, committed or not, and loses it when the entry is cut. The
history below is a part of the log and is cut by the function that cuts the log, so the roll-back cannot be forgotten.
"""

import msgspec

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
    """At most one voter comes or goes: any two majorities of the two then share a node. Learners change freely."""
    return len(set(old.voter_ids) ^ set(new.voter_ids)) <= 1


def with_learner(configuration: Configuration, learner: Member) -> Configuration:
    """The same with one learner more, or with another address for it; itself if there is nothing to change."""
    if learner in configuration.learners or learner.node_id in configuration.voter_ids:
        return configuration
    others = tuple(member for member in configuration.learners if member.node_id != learner.node_id)
    return Configuration(configuration.voters, (*others, learner))


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
