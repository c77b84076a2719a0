"""The wires between nodes: every directed link with its own delay, losses, doubles, cuts and late arrivals.

What ZeroMQ does to messages is done here on purpose: silence at the high-water mark, everything in flight lost when a
connection is made anew, order kept within a connection, and notices of links that come late or lie.
"""

from collections.abc import Callable
from random import Random
from typing import Protocol

from mesh import admission
from mesh.admission import Roll, Standing, Verdict
from mesh.effects import Channel
from mesh.events import Event, GossipReceived, Knocked, LinkDown, LinkUp, PeerMessage, TurnedAway
from mesh.ids import LogIndex, NodeId
from mesh.sim.coverage import Coverage
from mesh.sim.plan import Plan
from mesh.sim.schedule import Schedule, dice

Deliver = Callable[[str, Event], None]

LATE_US_MAX = 60_000_000
NOTICE_US = (100, 30_000)
SILENCE_NOTICED_US = (200_000, 3_000_000)
DIAL_AGAIN_US = (150_000, 900_000)
"""Pause before somebody who was turned away dials again."""
KNOCK_US = 1_000_000
"""A node hears of the same one at its door no more often than this."""


class Host(Protocol):
    """What the wires know of a host: whether a process runs on it, and what that says of itself."""

    @property
    def node_id(self) -> str: ...
    @property
    def is_up(self) -> bool: ...
    @property
    def incarnation(self) -> int: ...
    @property
    def mark(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def since(self) -> int: ...
    @property
    def roll(self) -> Roll | None:
        """By which it judges who knocks; None before its process has said so: everybody is welcome."""


class Network:
    """Carries bytes between nodes. `deliver` hands an event to a node; `hosts` are all there will ever be, by name."""

    def __init__(
        self, plan: Plan, schedule: Schedule, coverage: Coverage, deliver: Deliver, hosts: dict[str, Host]
    ) -> None:
        self._schedule = schedule
        self._coverage = coverage
        self._deliver = deliver
        self._hosts = hosts
        self._dice: Random = dice(plan.seed, "network")
        self._link_dice: Random = dice(plan.seed, "links")
        self.node_ids = plan.host_ids
        self.delay_us = plan.delay_us
        self.loss = plan.strength("loss")
        self.duplicate = plan.strength("duplicate")
        self.reorder = plan.strength("reorder")
        self.replay = plan.strength("replay")
        self.high_water_mark = plan.strength("high_water_mark")
        self.slow_us: dict[str, int] = {}
        """Extra delay of everything that comes to a slow node."""
        self._cuts: dict[tuple[str, str], int] = {}
        self._connection: dict[tuple[str, str], int] = {}
        self._last_us: dict[tuple[str, str, int], int] = {}
        self._in_flight: dict[tuple[str, str], int] = {}
        self._up: dict[tuple[str, str], int] = {}
        """(here, there) -> the incarnation `here` was last told is up; missing: no link, sends are dropped."""
        self._accepted: dict[tuple[str, str], bool] = {}
        """(here, there) -> whether each lets the other in, as of now."""
        self._knocked_us: dict[tuple[str, str], int] = {}
        self._untold: dict[tuple[str, str], int] = {}
        """Links cut by a roll of which `here`, in that incarnation, is not told yet."""
        self._dials: dict[tuple[str, str], int] = {}
        """Attempts under way to make a link where somebody was turned away."""

    # --- messages -----------------------------------------------------------------------------------------------------

    def send(self, source: str, to: str, channel: Channel, data: bytes) -> None:
        """One message on a link; dropped in silence if there is no link."""
        if (source, to) in self._up and to != source:
            self._carry(source, to, int(channel), data)

    def publish(self, source: str, data: bytes) -> None:
        """One publication to everybody who listens: to those who would make a link with it."""
        for to in self.node_ids:
            if to != source and self.is_accepted(source, to):
                self._carry(source, to, Channel.GOSSIP, data)

    def _carry(self, source: str, to: str, channel: int, data: bytes) -> None:
        roll = self._dice.random
        key = (source, to)
        flying = self._in_flight.get(key, 0)
        if self.high_water_mark and flying >= self.high_water_mark:
            self._coverage.add("dropped at the high-water mark")
            return
        if self._cuts.get(key) or (self.loss and roll() * 1_000 < self.loss):
            self._coverage.add("message lost")
            return
        delay_us = self.delay_us // 4 + int(self._dice.expovariate(1.0) * self.delay_us) + self.slow_us.get(to, 0)
        now_us = self._schedule.now_us
        if self.reorder and roll() * 1_000 < self.reorder:
            delay_us += int(self._dice.expovariate(1.0) * self.delay_us * 8)
            self._coverage.add("message reordered")
        else:
            lane = (source, to, channel)
            arrives_us = max(now_us + delay_us, self._last_us.get(lane, 0) + 1)
            self._last_us[lane] = arrives_us
            delay_us = arrives_us - now_us
        self._in_flight[key] = flying + 1
        connection = self._connection.get(key, 0)
        self._schedule.after(delay_us, self._arrive, key, channel, data, connection)
        if self.duplicate and roll() * 1_000 < self.duplicate:
            self._coverage.add("message doubled")
            self._in_flight[key] += 1
            again_us = delay_us + int(self._dice.expovariate(1.0) * self.delay_us * 4)
            self._schedule.after(again_us, self._arrive, key, channel, data, connection)
        if self.replay and roll() * 1_000 < self.replay:
            late_us = int(self._dice.uniform(0.02, 1.0) ** 2 * LATE_US_MAX)
            marks = (self._hosts[source].mark, self._hosts[to].mark)
            self._schedule.after(delay_us + late_us, self._arrive_late, key, channel, data, marks)

    def _arrive(self, key: tuple[str, str], channel: int, data: bytes, connection: int) -> None:
        self._in_flight[key] -= 1
        if self._cuts.get(key) or self._connection.get(key, 0) != connection:
            self._coverage.add("message lost")
            return
        self._hand_over(key, channel, data)

    def _arrive_late(self, key: tuple[str, str], channel: int, data: bytes, marks: tuple[str, str]) -> None:
        """From long ago, perhaps from before the receiver's restart, perhaps through a cut that is older than it. But
        a connection has proved whose logs it joins: nothing comes from a log that is gone, or to another.
        """
        source, to = key
        if marks != (self._hosts[source].mark, self._hosts[to].mark) or not self.is_accepted(source, to):
            self._coverage.add("message of a lost log dropped")
            return
        self._coverage.add("message replayed late")
        self._hand_over(key, channel, data)

    def _hand_over(self, key: tuple[str, str], channel: int, data: bytes) -> None:
        source, to = key
        event = GossipReceived(data) if channel == Channel.GOSSIP else PeerMessage(NodeId(source), data)
        self._deliver(to, event)

    # --- cuts ---------------------------------------------------------------------------------------------------------

    def cut(self, source: str, to: str) -> None:
        """Nothing passes from `source` to `to` any more. Cuts add up."""
        self._cuts[source, to] = self._cuts.get((source, to), 0) + 1
        for here, there in ((source, to), (to, source)):
            if self._link_dice.random() < 0.7:
                delay_us = self._link_dice.randint(*SILENCE_NOTICED_US)
                self._schedule.after(delay_us, self._notice_silence, here, there)

    def mend(self, source: str, to: str) -> None:
        """Take one cut back."""
        self._cuts[source, to] = max(0, self._cuts.get((source, to), 0) - 1)
        self.connect_soon(source, to)

    def mend_all(self) -> None:
        """All wires are whole, all links are made, and from here on nothing is lost, doubled or late."""
        self._cuts.clear()
        self.slow_us.clear()
        self.loss = self.duplicate = self.reorder = self.replay = self.high_water_mark = 0
        for source in self.node_ids:
            for to in self.node_ids:
                if source < to:
                    self.connect_soon(source, to)

    def is_cut(self, one: str, other: str) -> bool:
        """Whether nothing passes in at least one direction."""
        return bool(self._cuts.get((one, other)) or self._cuts.get((other, one)))

    @property
    def is_whole(self) -> bool:
        """Whether no wire is cut."""
        return not any(self._cuts.values())

    # --- links --------------------------------------------------------------------------------------------------------

    def bounce(self, one: str, other: str) -> None:
        """The connection breaks and is made anew: everything in flight is lost, both ends are told."""
        for here, there in ((one, other), (other, one)):
            self._connection[here, there] = self._connection.get((here, there), 0) + 1
            self._tell_down(here, there)
        self.connect_soon(one, other)

    def lie(self, here: str, there: str) -> None:
        """`here` is told that a link is down which is not; the truth comes later."""
        self._tell_down(here, there)
        self._schedule.after(self._link_dice.randint(10_000, 2_000_000), self._tell_up, here, there)

    def process_ended(self, node_id: str, silent: bool) -> None:
        """A node's process is gone: what it was sent is lost. Its peers notice at once, or (silent) not at all."""
        self._forget_verdicts(node_id)
        for other in self.node_ids:
            if other == node_id:
                continue
            self._connection[node_id, other] = self._connection.get((node_id, other), 0) + 1
            self._connection[other, node_id] = self._connection.get((other, node_id), 0) + 1
            self._up.pop((node_id, other), None)
            if not silent:
                self._schedule.after(self._link_dice.randint(*NOTICE_US), self._notice_end, other, node_id)

    def process_started(self, node_id: str) -> None:
        """A node's process runs: links are made with all that can be reached."""
        self._forget_verdicts(node_id)
        for other in self.node_ids:
            if other != node_id:
                self.connect_soon(node_id, other)

    def admission_changed(self, node_id: str) -> None:
        """A node judges by another roll, or says something else of itself: links that are not allowed any more are
        cut, and those that are allowed now are made.
        """
        before = {other: self._accepted.get((node_id, other)) for other in self.node_ids}
        self._forget_verdicts(node_id)
        for other in self.node_ids:
            if other == node_id or not self._hosts[other].is_up:
                continue
            is_accepted = self.is_accepted(node_id, other)
            if not is_accepted and ((node_id, other) in self._up or (other, node_id) in self._up):
                self._coverage.add("link cut by the roll")
                self._sever(node_id, other)
            elif is_accepted and before[other] is False:
                self.connect_soon(node_id, other)

    def connect_soon(self, one: str, other: str) -> None:
        """Both ends learn, each in its time, that the link is up."""
        for here, there in ((one, other), (other, one)):
            self._schedule.after(self._link_dice.randint(*NOTICE_US), self._tell_up, here, there)

    def _sever(self, one: str, other: str) -> None:
        """The connection is closed on purpose: what is under way is lost, both ends are told."""
        for here, there in ((one, other), (other, one)):
            self._connection[here, there] = self._connection.get((here, there), 0) + 1
            if self._up.pop((here, there), None) is not None:
                self._untold[here, there] = self._hosts[here].incarnation
                self._schedule.after(self._link_dice.randint(*NOTICE_US), self._tell_severed, here, there)

    def _tell_severed(self, here: str, there: str) -> None:
        incarnation = self._untold.pop((here, there), 0)
        if incarnation and incarnation == self._incarnation_of(here):
            self._coverage.add("link down")
            self._deliver(here, LinkDown(NodeId(there)))
            self._dial_again(here, there)

    def _notice_silence(self, here: str, there: str) -> None:
        if self.is_cut(here, there):
            self._tell_down(here, there)

    def _notice_end(self, here: str, there: str) -> None:
        told = self._up.get((here, there))
        if told is not None and told != self._incarnation_of(there):
            self._tell_down(here, there)

    def _tell_down(self, here: str, there: str) -> None:
        if self._up.pop((here, there), None) is not None and self._hosts[here].is_up:
            self._coverage.add("link down")
            self._deliver(here, LinkDown(NodeId(there)))

    def _tell_up(self, here: str, there: str) -> None:
        incarnation = self._incarnation_of(there)
        if not incarnation or not self._hosts[here].is_up or self.is_cut(here, there):
            return
        if self._up.get((here, there)) == incarnation:
            return
        self._tell_severed(here, there)
        self._tell_down(here, there)
        if not self.is_accepted(here, there):
            self._turn_away(here, there)
            return
        self._up[here, there] = incarnation
        self._deliver(here, LinkUp(NodeId(there), incarnation, self._hosts[there].mark))

    def _incarnation_of(self, node_id: str) -> int:
        """Of the running process of a node; 0 if none runs."""
        host = self._hosts[node_id]
        return host.incarnation if host.is_up else 0

    # --- who is let in ------------------------------------------------------------------------------------------------

    def verdict(self, judge: str, guest: str) -> Verdict:
        """What `judge` says to `guest` as of now."""
        host, knocking = self._hosts[judge], self._hosts[guest]
        if host.roll is None:
            return Verdict.ACCEPTED
        standing = Standing(NodeId(guest), knocking.mark, LogIndex(knocking.since))
        return admission.judge(host.roll, standing)

    def is_accepted(self, one: str, other: str) -> bool:
        """Whether a link between the two is allowed by both."""
        key = (one, other)
        known = self._accepted.get(key)
        if known is None:
            known = self.verdict(one, other) is Verdict.ACCEPTED and self.verdict(other, one) is Verdict.ACCEPTED
            self._accepted[key] = self._accepted[other, one] = known
        return known

    def _forget_verdicts(self, node_id: str) -> None:
        for other in self.node_ids:
            self._accepted.pop((node_id, other), None)
            self._accepted.pop((other, node_id), None)

    def _turn_away(self, here: str, there: str) -> None:
        """`here` dialled and one of the two does not want the other. Whoever is refused is told, and his knock is
        heard, if he may ask to be taken in; he tries again.
        """
        verdict, roll = self.verdict(there, here), self._hosts[there].roll
        self._dial_again(here, there)
        if verdict is Verdict.ACCEPTED or roll is None:
            return
        if verdict in (Verdict.STRANGER, Verdict.REPLACED):
            self._knock(here, there)
        if self._hosts[here].is_up:
            self._coverage.add(f"turned away as {verdict.name.lower()}")
            self._deliver(here, TurnedAway(NodeId(there), int(verdict), roll.index))

    def _knock(self, here: str, there: str) -> None:
        """`there` hears that `here` wants in, once in a while."""
        now_us = self._schedule.now_us
        if now_us >= self._knocked_us.get((here, there), 0):
            self._knocked_us[here, there] = now_us + KNOCK_US
            self._coverage.add("knocked")
            self._deliver(there, Knocked(NodeId(here), self._hosts[here].address, self._hosts[here].mark))

    def _dial_again(self, here: str, there: str) -> None:
        """One further attempt at a time. What is down or cut off is dialled by whoever starts or mends it."""
        if not self._dials.get((here, there)):
            self._dials[here, there] = 1
            self._schedule.after(self._link_dice.randint(*DIAL_AGAIN_US), self._dialled_again, here, there)

    def _dialled_again(self, here: str, there: str) -> None:
        self._dials[here, there] = 0
        self._tell_up(here, there)
