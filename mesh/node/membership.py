"""Who takes part, and who has a vote: what a leader proposes, and what a node makes of its own place.

One change at a time (Ongaro's thesis 4.1), looked for again and again, because a proposal can be lost: names of logs
first, then newcomers, then votes. Nothing is proposed that would leave no majority alive to commit it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mesh.admission import Roll, Verdict
from mesh.config import MEMBERS_MAX, VOTERS_MAX, MembershipConfig
from mesh.durable import Configuration, EntryKind, Member
from mesh.effects import Admit, Channel, Notice, Retire, Send
from mesh.events import Knocked, TurnedAway
from mesh.gossip.members import Health
from mesh.ids import LogIndex, NodeId
from mesh.messages import Heartbeat, Knock
from mesh.raft.configuration import with_learner, with_marks, with_voter, without_vote
from mesh.wire.codec import encode

if TYPE_CHECKING:
    from mesh.node.node import Node

KNOCK_MS_MAX = 5_000
"""Whoever has not knocked for this long is not waiting any more."""
KNOCKS_MAX = 100
REFUSAL_MS_MAX = 10_000
"""A node that is in the configuration and has not been turned away for this long votes again."""
CAUGHT_UP = "replicate"
"""How a follower is replicated to that needs no probing and no table."""

REMOVED = (
    "This node was removed from the mesh, and its log is never let in again. To bring the machine back, start it with "
    "an empty data directory and --join."
)


class Facts(msgspec.Struct, frozen=True):
    """What a leader knows of the members. `failed_ms` has only those that have failed, and for how long."""

    marks: dict[NodeId, str]
    newcomers: tuple[Member, ...]
    caught_up: frozenset[NodeId]
    failed_ms: dict[NodeId, int]


def next_change(now: Configuration, facts: Facts, settings: MembershipConfig) -> Configuration | None:
    """The next configuration, one step from this one; None if it is as it should be."""
    named = with_marks(now, facts.marks)
    for step in (_taken_in, _promoted, _retired):
        changed = step(named, facts, settings)
        if changed is not None and changed is not named and can_commit(changed, facts):
            return changed
    return named if named is not now else None


def can_commit(configuration: Configuration, facts: Facts) -> bool:
    """Whether a majority of its voters is alive."""
    alive = [voter for voter in configuration.voter_ids if voter not in facts.failed_ms]
    return len(alive) * 2 > len(configuration.voters)


def _taken_in(now: Configuration, facts: Facts, settings: MembershipConfig) -> Configuration | None:
    """A newcomer becomes a learner. One whose id is taken replaces the old one, if that has failed."""
    for newcomer in facts.newcomers:
        known = now.member(newcomer.node_id)
        if newcomer.mark in now.forgotten or (known is None and len(now.members) >= MEMBERS_MAX):
            continue
        if known is not None and newcomer.node_id not in facts.failed_ms:
            continue
        changed = with_learner(now, newcomer)
        if changed is not now and can_commit(changed, facts):
            return changed
    return None


def _promoted(now: Configuration, facts: Facts, settings: MembershipConfig) -> Configuration | None:
    """A learner that has caught up is given a vote, if votes are wanting or a voter has been failed for long."""
    count = len(now.voters)
    is_wanting = count < settings.voters_wanted
    is_replacing = count < VOTERS_MAX and count == settings.voters_wanted and bool(_long_failed(now, facts, settings))
    if not (is_wanting or is_replacing):
        return None
    learner = next(iter(_ready(now, facts)), None)
    return None if learner is None else with_voter(now, learner.node_id)


def _retired(now: Configuration, facts: Facts, settings: MembershipConfig) -> Configuration | None:
    """A voter that has been failed for long loses its vote: once another took its place, or where there is no room for
    both, or where an even number of voters tolerates no more failures than one less.
    """
    count = len(now.voters)
    failed = _long_failed(now, facts, settings)
    is_due = count > settings.voters_wanted or count % 2 == 0 or (count == VOTERS_MAX and _ready(now, facts))
    if not failed or not is_due or count == 1:
        return None
    return without_vote(now, failed[0], held_back=False)


def _ready(now: Configuration, facts: Facts) -> list[Member]:
    return [
        learner
        for learner in now.learners
        if learner.node_id in facts.caught_up and learner.node_id not in facts.failed_ms and not learner.held_back
    ]


def _long_failed(now: Configuration, facts: Facts, settings: MembershipConfig) -> list[NodeId]:
    return [voter for voter in now.voter_ids if facts.failed_ms.get(voter, -1) >= settings.replace_after_ms]


class Membership:
    """One node's view of who belongs. As leader it proposes; as anybody it tells its shell whom to admit."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._mark = node.config.mark
        self._is_founder = any(name == node.node_id for name, _ in node.config.voters)
        self._marks: dict[NodeId, str] = {}
        """Names of logs, as links have shown them."""
        self._knocks: dict[NodeId, tuple[Member, int]] = {}
        self._failed_since_ms: dict[NodeId, int] = {}
        self._told: Configuration | None = None
        self.settled: Configuration | None = None
        """The configuration that the shell was told is in force and committed: until it changes there is nothing to
        tell.
        """
        self._turned_away_ms = 0
        self.since = LogIndex(0)
        """Index of the latest configuration that has this node with this log; 0 if none."""
        self._is_retired = False

    # --- as anybody ---

    def look(self) -> None:
        """Whether the configuration in force, or whether it is committed, has changed: tell the shell."""
        raft = self._node.raft
        configuration, index = raft.configuration, raft.configuration_index
        is_committed = index <= raft.commit_index
        if configuration is self._told and not is_committed:
            return
        self._told = configuration
        self.settled = configuration if is_committed else None
        history = raft.log.configurations
        found = history.since(self._node.node_id, self._mark, by_name=self._is_founder)
        if found or self.since > history.oldest_index or self._is_replaced:
            self.since = found
        if self._is_in:
            raft.unbar()
        self._tell()
        if is_committed and self._mark and self._mark in configuration.forgotten:
            self._retire()

    def _tell(self) -> None:
        """Let the shell know who belongs, and since when we do."""
        raft = self._node.raft
        configuration, index = raft.configuration, raft.configuration_index
        is_committed = index <= raft.commit_index
        before = () if is_committed else raft.configuration_at(raft.commit_index).members
        roll = Roll(index, is_committed, configuration.members, configuration.forgotten, before)
        self._node.out.append(Admit(roll, self.since))

    def turned_away(self, event: TurnedAway) -> None:
        """A peer does not let us in. Removed is for ever; replaced means that our vote must not count."""
        if event.verdict == Verdict.REMOVED and event.index >= self.since:
            if self.since <= self._node.raft.commit_index:
                self._retire()
            else:
                # What took us in was never committed here, and perhaps nowhere: another leader may have cut it. We ask
                # again as if it had not been; if we were removed, our mark is known, and we are told so once more.
                self.since = LogIndex(0)
                self._tell()
        elif event.verdict == Verdict.REPLACED and event.index > self.since:
            self._node.raft.bar()
            self._turned_away_ms = self._node.now_ms
            if not self._node.counters.get("replaced"):
                text = f"{event.peer} knows {self._node.node_id} with another log; waiting to be taken in as a learner"
                self._node.out.append(Notice("replaced", text))
            self._node.count("replaced")

    def _forget_old_refusal(self) -> None:
        """Whoever turned us away may have gone by a configuration that was cut again."""
        raft = self._node.raft
        if raft.is_barred and self._is_in and self._node.now_ms - self._turned_away_ms > REFUSAL_MS_MAX:
            raft.unbar()

    @property
    def _is_in(self) -> bool:
        """Whether the configuration in force has this very log. Our id alone proves nothing."""
        member = self._node.raft.configuration.member(self._node.node_id)
        return member is not None and member.mark == self._mark

    @property
    def has_caught_up(self) -> bool:
        """Whether this log is in the mesh, and has all that came before it was."""
        return self._is_in and self._node.ledger.applied_index >= self.since > 1

    @property
    def _is_replaced(self) -> bool:
        """Whether it has our id with another log: then the founders' list, which names no logs, did not mean us."""
        member = self._node.raft.configuration.member(self._node.node_id)
        return member is not None and member.mark not in ("", self._mark)

    def _retire(self) -> None:
        if not self._is_retired:
            self._is_retired = True
            self._node.raft.bar()
            self._node.out.append(Retire(1, REMOVED))

    def knocked(self, event: Knocked) -> None:
        """Somebody wants in: for the leader to decide."""
        node = self._node
        leader = node.raft.leader_id
        if node.leading.dispatcher.in_office:
            self.wants_in(Member(event.node_id, event.address, event.mark))
        elif leader is not None and leader != node.node_id:
            knock = Knock(event.node_id, event.address, event.mark)
            node.out.append(Send(leader, Channel.CTL, encode(knock)))

    def on_knock(self, peer: NodeId, message: Knock) -> None:
        if self._node.leading.dispatcher.in_office:
            self.wants_in(Member(message.node_id, message.address, message.mark))

    # --- as leader ---

    def heard_from_outside(self, heartbeat: Heartbeat) -> None:
        """Whoever beats has a link, and is no member here. If it is in by a configuration later than any of ours, that
        one was undone: the node still takes itself for a member and asks for nothing, so this is done for it. If ours
        is the later, it was removed, and is told so when it next links up.
        """
        node = self._node
        is_ahead = heartbeat.since > node.raft.configuration_index
        if (
            node.leading.dispatcher.in_office
            and is_ahead
            and heartbeat.mark
            and heartbeat.cluster == node.config.cluster
        ):
            self.wants_in(Member(heartbeat.node_id, heartbeat.address, heartbeat.mark))

    def wants_in(self, newcomer: Member) -> None:
        if newcomer.node_id in self._knocks or len(self._knocks) < KNOCKS_MAX:
            self._knocks[newcomer.node_id] = (newcomer, self._node.now_ms)
            self.check()

    def link_up(self, peer: NodeId, mark: str) -> None:
        """A link shows the name of a peer's log."""
        if mark and self._marks.get(peer) != mark:
            self._marks[peer] = mark
            self.check()

    def facts(self) -> Facts:
        """All that a decision rests on, as of now."""
        node = self._node
        now_ms, raft = node.now_ms, node.raft
        for name, (_, knocked_ms) in list(self._knocks.items()):
            if now_ms - knocked_ms > KNOCK_MS_MAX:
                del self._knocks[name]
        failed = {member.node_id for member in node.detector.members() if member.health is Health.FAILED}
        before = self._failed_since_ms
        members = raft.configuration.members
        since = {m.node_id: before.get(m.node_id, now_ms) for m in members if m.node_id in failed}
        self._failed_since_ms = since
        # It must also know that it takes part: one that does not yet would refuse the very vote it was given.
        enough = max(raft.last_index - node.config.membership.lag_entries_max, raft.configuration_index)
        return Facts(
            self._marks | {node.node_id: self._mark},
            tuple(member for member, _ in self._knocks.values()),
            frozenset(peer for peer, match, state in raft.peers() if state == CAUGHT_UP and match >= enough),
            {name: now_ms - since_ms for name, since_ms in since.items()},
        )

    def heirs(self) -> list[NodeId]:
        """As leader: voters that could take over at once, the one with the longest log first. One that hangs, or is
        about to go itself, would only hold us up.
        """
        node = self._node
        voters = node.raft.configuration.voter_ids
        able = []
        for peer, match, state in node.raft.peers():
            member = node.detector.member(peer)
            if state != CAUGHT_UP or peer not in voters or member is None or member.last is None:
                continue
            if member.health is Health.HEALTHY and not member.last.draining:
                able.append((-match, peer))
        return [peer for _, peer in sorted(able)]

    def check(self) -> None:
        """Propose what is due. Called with every heartbeat, and when something has changed."""
        node = self._node
        self._forget_old_refusal()
        if not node.leading.dispatcher.in_office or node.raft.is_configuring:
            return
        facts = self.facts()
        changed = node.orders.wanted(facts) or next_change(node.raft.configuration, facts, node.config.membership)
        if changed is not None:
            self.propose(changed)

    def propose(self, configuration: Configuration) -> LogIndex | None:
        """The index of its entry; None if it cannot be proposed just now."""
        return self._node.raft.propose(EntryKind.CONFIGURATION, encode(configuration), self._node.now_ms)

    def leave_office(self) -> None:
        self._knocks.clear()
        self._failed_since_ms.clear()
