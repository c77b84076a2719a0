"""Who is healthy: judged by heartbeats heard and missed, and by links lost. Evidence for the leader, never a decision.

The k-th heartbeat after the last one heard is *missed* once the silence has reached k intervals. Nodes publish every
9/10 of an interval (GossipConfig.beat_ms), which leaves a beat a tenth to arrive in; the judge adds nothing of its own.

    HEALTHY     one missed                                           -> DEGRADED
    DEGRADED    heard                                                -> HEALTHY
    any         failure_threshold missed in a row                    -> FAILED
    any         our link to it down for link_grace_ms, and a majority
                of all members, ourselves counted, says the same     -> FAILED      "link lost"
    FAILED      heard, unless its link is still lost to a majority   -> RECOVERING
    any but FAILED, heard under another incarnation                  -> RECOVERING  "restarted"
    RECOVERING  recovery_heartbeats heard in a row (the one that
                made it recovering is the first)                     -> HEALTHY

A node never heard is judged from the start of the watch. Our own node is always healthy.
"""

from collections.abc import Iterable

import msgspec

from mesh.config import GossipConfig
from mesh.gossip.members import Health, MemberState
from mesh.ids import Incarnation, NodeId
from mesh.messages import Heartbeat, PeerView


class Change(msgspec.Struct, frozen=True):
    """A node's health became another, or the same under another incarnation. `why` is a few words for the record."""

    node_id: NodeId
    incarnation: Incarnation
    before: Health
    after: Health
    why: str


class Detector:
    """One node's view of all members. Fed heartbeats, links and time; answers with changes."""

    def __init__(
        self,
        config: GossipConfig,
        node_id: NodeId,
        cluster: str,
        members: Iterable[tuple[NodeId, str]],
        now_ms: int,
    ) -> None:
        """`members` are (node id, address) of every node that counts; our own is added if it is not among them.

        Others may come later, see `add`.
        """
        self._config = config
        self._cluster = cluster
        addresses = {node_id: ""} | dict(members)
        self._members = {name: _watched(name, addresses[name], now_ms) for name in sorted(addresses)}
        self._node_id = node_id
        self._peers = {name: state for name, state in self._members.items() if name != node_id}
        self._changes: list[Change] = []
        self._urgent = False
        self._deadline_ms: int | None = None
        self._set_deadline(now_ms)

    def add(self, node_id: NodeId, address: str, now_ms: int) -> None:
        """Watch one more node, from now on. One that is watched already is only given this address."""
        state = self._members.get(node_id)
        if state is not None:
            state.address = address
            return
        members = {**self._members, node_id: _watched(node_id, address, now_ms)}
        self._members = {name: members[name] for name in sorted(members)}
        self._peers = {name: state for name, state in self._members.items() if name != self._node_id}
        self._set_deadline(now_ms)

    def remove(self, node_id: NodeId, now_ms: int) -> None:
        """Watch a node no longer. Our own is always watched."""
        if node_id in self._peers:
            del self._members[node_id], self._peers[node_id]
            self._set_deadline(now_ms)

    # --- what is heard ------------------------------------------------------------------------------------------------

    def heard(self, heartbeat: Heartbeat, now_ms: int) -> bool:
        """Take one heartbeat. False: not for us, from nobody we know, from before a restart, or not new; count it.

        What it changes is told by the next tick, which is due at once if there is anything.
        """
        state = self._peers.get(heartbeat.node_id)
        if state is None or heartbeat.cluster != self._cluster or heartbeat.incarnation < state.incarnation:
            return False
        if heartbeat.incarnation > state.incarnation:
            self._restarted(state, Incarnation(heartbeat.incarnation), now_ms)
        elif state.last is not None and heartbeat.sequence <= state.last.sequence:
            return False
        state.last = heartbeat
        state.heard_ms = state.awaited_ms = now_ms
        state.missed = 0
        state.spared = False
        self._improve(state, now_ms)
        self._set_deadline(now_ms)
        return True

    def link_up(self, peer: NodeId, incarnation: Incarnation, now_ms: int) -> None:
        """Our link to `peer` stands. A link to an older incarnation than the one we know says nothing."""
        state = self._peers.get(peer)
        if state is None or incarnation < state.incarnation:
            return
        if incarnation > state.incarnation:
            self._restarted(state, incarnation, now_ms)
        state.link_up = True
        state.link_down_ms = None
        self._set_deadline(now_ms)

    def link_down(self, peer: NodeId, now_ms: int) -> None:
        """Our link to `peer` broke. The others should hear of it at once: see take_urgent."""
        state = self._peers.get(peer)
        if state is None or not state.link_up:
            return
        state.link_up = False
        state.link_down_ms = now_ms
        state.link_told = False
        self._urgent = True
        self._set_deadline(now_ms)

    def take_urgent(self) -> bool:
        """Should a heartbeat be published right now? Says so once."""
        urgent, self._urgent = self._urgent, False
        return urgent

    # --- what is judged -----------------------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> list[Change]:
        """Judge everybody. All that changed since the last tick, in the order it happened."""
        for state in self._peers.values():
            if state.health is not Health.FAILED:
                self._tell_again(state, now_ms)
                self._judge(state, now_ms)
        changes, self._changes = self._changes, []
        self._set_deadline(now_ms)
        return changes

    def was_late(self, now_ms: int) -> None:
        """We slept: a timer of ours fired late. Nobody is judged by time we slept through.

        Each member gets one more interval before it misses another heartbeat. Once per heartbeat: if we are late again
        and again, each time counts as one missed heartbeat at most, but it does count. Broken links are timed anew.
        """
        interval_ms = self._config.heartbeat_interval_ms
        for state in self._peers.values():
            if state.health is Health.FAILED:
                continue
            earliest_ms = now_ms if state.spared else now_ms + interval_ms
            state.awaited_ms += max(0, earliest_ms - self._next_miss_ms(state))
            state.spared = True
            if state.link_down_ms is not None:
                state.link_down_ms = now_ms
        self._set_deadline(now_ms)

    def next_deadline_ms(self) -> int | None:
        """When `tick` may have something to say; None if there is nobody to judge."""
        return self._deadline_ms

    # --- what is asked ------------------------------------------------------------------------------------------------

    def health(self, node_id: NodeId) -> Health:
        """Raises KeyError for a node that is not a member."""
        return self._members[node_id].health

    def member(self, node_id: NodeId) -> MemberState | None:
        return self._members.get(node_id)

    def members(self) -> tuple[MemberState, ...]:
        """All of them, our own included, in order of id. Of our own only id and address mean anything."""
        return tuple(self._members.values())

    def healthy_ids(self) -> tuple[NodeId, ...]:
        """Members that are HEALTHY, our own included, in order of id."""
        return tuple(name for name, state in self._members.items() if state.health is Health.HEALTHY)

    def views(self) -> tuple[PeerView, ...]:
        """What our own heartbeat says of the others, in order of id."""
        return tuple(
            PeerView(name, state.incarnation, state.health, state.link_up) for name, state in self._peers.items()
        )

    def silence_ms(self, node_id: NodeId, now_ms: int) -> int:
        """Age of the last heartbeat, or of our watch if there was none; 0 for our own node. KeyError as for health."""
        state = self._members[node_id]
        if node_id not in self._peers:
            return 0
        return now_ms - (state.watched_ms if state.heard_ms is None else state.heard_ms)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _change(self, state: MemberState, after: Health, why: str) -> None:
        self._changes.append(Change(state.node_id, state.incarnation, state.health, after, why))
        state.health = after

    def _restarted(self, state: MemberState, incarnation: Incarnation, now_ms: int) -> None:
        """Another process speaks under this name: what we knew of the old one's links and silence is void."""
        known = state.incarnation > 0
        state.incarnation = incarnation
        state.last = None
        state.awaited_ms = now_ms
        state.missed = 0
        state.spared = False
        state.recovered_beats = 0
        state.link_up = False
        state.link_down_ms = None
        if known and state.health is not Health.FAILED:
            self._change(state, Health.RECOVERING, "restarted")

    def _improve(self, state: MemberState, now_ms: int) -> None:
        if state.health is Health.DEGRADED:
            self._change(state, Health.HEALTHY, "heard again")
        elif state.health is Health.FAILED and not self._is_link_lost(state, now_ms):
            state.recovered_beats = 0
            self._change(state, Health.RECOVERING, "heard again")
        if state.health is Health.RECOVERING:
            state.recovered_beats += 1
            if state.recovered_beats >= self._config.recovery_heartbeats:
                self._change(state, Health.HEALTHY, "recovered")

    def _tell_again(self, state: MemberState, now_ms: int) -> None:
        """Whoever lost his link after us has not counted what we said of ours: say it once more when grace is over."""
        grace_ms = self._config.link_grace_ms
        if state.link_down_ms is not None and not state.link_told and now_ms >= state.link_down_ms + grace_ms:
            state.link_told = True
            self._urgent = True

    def _judge(self, state: MemberState, now_ms: int) -> None:
        if self._is_link_lost(state, now_ms):
            self._fail(state, "link lost")
            return
        missed = (now_ms - state.awaited_ms) // self._config.heartbeat_interval_ms
        if missed <= state.missed:
            return
        state.missed = missed
        state.spared = False
        state.recovered_beats = 0
        if missed >= self._config.failure_threshold:
            self._fail(state, f"missed {self._config.failure_threshold} heartbeats")
        elif state.health is Health.HEALTHY:
            self._change(state, Health.DEGRADED, "missed a heartbeat")

    def _fail(self, state: MemberState, why: str) -> None:
        state.failure_count += 1
        self._change(state, Health.FAILED, why)

    def _is_link_lost(self, state: MemberState, now_ms: int) -> bool:
        lost_ms = self._link_lost_ms(state)
        return lost_ms is not None and lost_ms <= now_ms

    def _link_lost_ms(self, state: MemberState) -> int | None:
        """When our broken link becomes a verdict, given what the others say of theirs; None if they do not agree."""
        since_ms = state.link_down_ms
        if since_ms is None:
            return None
        down = 1 + sum(1 for other in self._peers.values() if other.says_link_is_down(state, since_ms))
        return since_ms + self._config.link_grace_ms if down * 2 > len(self._members) else None

    def _next_miss_ms(self, state: MemberState) -> int:
        return state.awaited_ms + (state.missed + 1) * self._config.heartbeat_interval_ms

    def _set_deadline(self, now_ms: int) -> None:
        """Kept, not computed when asked: it is asked after every event, and changes a few times a second."""
        due_ms = [now_ms] if self._changes else []
        for state in self._peers.values():
            if state.health is not Health.FAILED:
                due_ms.append(self._next_miss_ms(state))
                lost_ms = self._link_lost_ms(state)
                if lost_ms is not None:
                    due_ms.append(lost_ms)
                if state.link_down_ms is not None and not state.link_told:
                    due_ms.append(state.link_down_ms + self._config.link_grace_ms)
        self._deadline_ms = min(due_ms, default=None)


def _watched(node_id: NodeId, address: str, now_ms: int) -> MemberState:
    return MemberState(node_id, address, awaited_ms=now_ms, watched_ms=now_ms)
