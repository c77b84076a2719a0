"""The detector against its definition: a model that keeps the whole history and works everything out again each ms."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from mesh.config import GossipConfig
from mesh.gossip import Change, Detector, Health
from mesh.ids import Incarnation, NodeId
from tests.gossip.cast import ANA, BEN, EVA, beat

OTHER = {BEN: EVA, EVA: BEN}
INTERVAL_MS, THRESHOLD, RECOVERY, GRACE_MS = 50, 2, 2, 20
CONFIG = GossipConfig(
    heartbeat_interval_ms=INTERVAL_MS,
    failure_threshold=THRESHOLD,
    recovery_heartbeats=RECOVERY,
    link_grace_ms=GRACE_MS,
)


@dataclass(frozen=True)
class Beat:
    node: NodeId
    incarnation: int
    sequence: int
    complains_of: int  # Incarnation of the other node to which the sender's link is down; 0 for none.


@dataclass(frozen=True)
class LinkUp:
    node: NodeId
    incarnation: int


@dataclass(frozen=True)
class LinkDown:
    node: NodeId


Happening = Beat | LinkUp | LinkDown

# Mostly the next sequence of the present incarnation, as in life; sometimes an old or repeated one, or a restart.
nodes = st.sampled_from([BEN, EVA])
restarts = st.sampled_from([0] * 12 + [1, -1])
steps = st.sampled_from([1] * 8 + [0, -1, 5])
pauses_ms = st.sampled_from([1, 2, 3, 5, 8, 12, 19, 20, 21, 33, 49, 50, 51])
sketches = st.one_of(
    st.tuples(st.just("beat"), nodes, restarts, steps, st.booleans()),
    st.tuples(st.just("beat"), nodes, st.just(0), st.just(1), st.just(True)),
    st.tuples(st.just("up"), nodes, restarts, st.just(0), st.just(False)),
    st.tuples(st.just("down"), nodes, st.just(0), st.just(0), st.just(False)),
)


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[int, Happening]]:
    """Pauses and what happens after each; both nodes are linked and heard at first, and it all ends in silence."""
    incarnation, sequence = dict.fromkeys(OTHER, 1), dict.fromkeys(OTHER, 1)
    story: list[tuple[int, Happening]] = []
    for node in OTHER:
        story += [(1, LinkUp(node, 1)), (1, Beat(node, 1, 1, 0))]
    for pause_ms, (kind, node, restart, step, complains) in draw(
        st.lists(st.tuples(pauses_ms, sketches), min_size=5, max_size=20)
    ):
        speaks_as = max(1, incarnation[node] + restart)
        if speaks_as > incarnation[node]:
            incarnation[node], sequence[node] = speaks_as, 0
        if kind == "beat":
            sequence[node] = max(1, sequence[node] + step)
            complaint = incarnation[OTHER[node]] if complains else 0
            story.append((pause_ms, Beat(node, speaks_as, sequence[node], complaint)))
        elif kind == "up":
            story.append((pause_ms, LinkUp(node, speaks_as)))
        else:
            story.append((pause_ms, LinkDown(node)))
    return [*story, (2 * THRESHOLD * INTERVAL_MS, LinkDown(BEN))]


@dataclass(frozen=True)
class Facts:
    """What the whole history says of one node."""

    incarnation: int = 0
    restarted_ms: int = 0
    beats: tuple[tuple[int, Beat], ...] = ()
    link_down_ms: int | None = None

    @classmethod
    def of(cls, node: NodeId, history: list[tuple[int, Happening]]) -> "Facts":
        mine = [(at_ms, what) for at_ms, what in history if what.node == node]
        named = [(at_ms, what.incarnation) for at_ms, what in mine if not isinstance(what, LinkDown)]
        present = max((incarnation for _, incarnation in named), default=0)
        since_ms = min((at_ms for at_ms, incarnation in named if incarnation == present), default=0)
        beats: list[tuple[int, Beat]] = []
        is_up, down_ms = False, None
        for at_ms, what in mine:
            if at_ms < since_ms:
                continue
            match what:
                case Beat(_, incarnation, sequence):
                    if incarnation == present and all(sequence > before.sequence for _, before in beats):
                        beats.append((at_ms, what))
                case LinkUp(_, incarnation):
                    if incarnation == present:
                        is_up, down_ms = True, None
                case LinkDown():
                    if is_up:
                        is_up, down_ms = False, at_ms
        return cls(present, since_ms, tuple(beats), down_ms)


@dataclass
class Model:
    """Remembers health and the count of beats shown. Everything else is worked out from the history."""

    history: list[tuple[int, Happening]] = field(default_factory=list)
    facts: dict[NodeId, Facts] = field(default_factory=lambda: dict.fromkeys(OTHER, Facts()))
    health: dict[NodeId, Health] = field(default_factory=lambda: dict.fromkeys(OTHER, Health.HEALTHY))
    shown: dict[NodeId, int] = field(default_factory=lambda: dict.fromkeys(OTHER, 0))

    def happen(self, what: Happening, now_ms: int) -> None:
        self.history.append((now_ms, what))
        before = self.facts
        self.facts = {node: Facts.of(node, self.history) for node in OTHER}
        for node in OTHER:
            if 0 < before[node].incarnation < self.facts[node].incarnation:
                self.shown[node] = 0
                if self.health[node] is not Health.FAILED:
                    self.health[node] = Health.RECOVERING
            if self.facts[node].beats[-1:] != before[node].beats[-1:] and self.facts[node].beats:
                self.hear(node, now_ms)

    def hear(self, node: NodeId, now_ms: int) -> None:
        if self.health[node] is Health.DEGRADED:
            self.health[node] = Health.HEALTHY
        if self.health[node] is Health.FAILED and not self.is_link_lost(node, now_ms):
            self.health[node], self.shown[node] = Health.RECOVERING, 0
        if self.health[node] is Health.RECOVERING:
            self.shown[node] += 1
            if self.shown[node] >= RECOVERY:
                self.health[node] = Health.HEALTHY

    def missed(self, node: NodeId, now_ms: int) -> int:
        facts = self.facts[node]
        silent_since_ms = max(facts.restarted_ms, *(at_ms for at_ms, _ in facts.beats), 0)
        return sum(1 for k in range(1, THRESHOLD + 1) if silent_since_ms + k * INTERVAL_MS <= now_ms)

    def is_link_lost(self, node: NodeId, now_ms: int) -> bool:
        facts, last_word = self.facts[node], self.facts[OTHER[node]].beats[-1:]
        return facts.link_down_ms is not None and any(
            facts.link_down_ms + GRACE_MS <= now_ms
            and at_ms > facts.link_down_ms
            and word.complains_of == facts.incarnation
            for at_ms, word in last_word
        )

    def pass_ms(self, node: NodeId, now_ms: int) -> None:
        missed = self.missed(node, now_ms)
        if self.health[node] is Health.FAILED:
            return
        if missed:
            self.shown[node] = 0
        if missed >= THRESHOLD or self.is_link_lost(node, now_ms):
            self.health[node] = Health.FAILED
        elif missed and self.health[node] is Health.HEALTHY:
            self.health[node] = Health.DEGRADED


def tell(detector: Detector, what: Happening, now_ms: int) -> None:
    match what:
        case LinkUp(node, incarnation):
            detector.link_up(node, Incarnation(incarnation), now_ms)
        case LinkDown(node):
            detector.link_down(node, now_ms)
        case Beat(node, incarnation, sequence, complains_of):
            lost = (OTHER[node],) if complains_of else ()
            said = beat(node, sequence, incarnation=incarnation, lost=lost, lost_incarnation=complains_of)
            detector.heard(said, now_ms)


@given(stories())
def test_the_detector_does_what_its_definition_says(story: list[tuple[int, Happening]]) -> None:
    """One detector is ticked every millisecond, one only when its own deadline says so; both agree with the model."""
    members = [(ANA, "ana:1"), (BEN, "ben:1"), (EVA, "eva:1")]
    watched, lazy = (Detector(CONFIG, ANA, "c", members, 0) for _ in range(2))
    model = Model()
    told: dict[NodeId, Health] = dict.fromkeys(OTHER, Health.HEALTHY)
    now_ms = 0
    for pause_ms, what in story:
        for left_ms in reversed(range(pause_ms)):
            now_ms += 1
            if left_ms == 0:
                model.happen(what, now_ms)
                tell(watched, what, now_ms)
                tell(lazy, what, now_ms)
            changes = watched.tick(now_ms)
            deadline_ms = lazy.next_deadline_ms()
            lazy_changes: list[Change] = []
            if deadline_ms is not None and deadline_ms <= now_ms:
                lazy_changes = lazy.tick(now_ms)
            assert lazy_changes == changes
            for change in changes:
                assert change.before is told[change.node_id], "no step is left out"
                told[change.node_id] = change.after
            for node in OTHER:
                model.pass_ms(node, now_ms)
                assert watched.health(node) is model.health[node] is told[node], (now_ms, node)
