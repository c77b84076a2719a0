"""A mesh small enough to be looked at in every state it can be in: real replicas, disks that sync at once, no time.

A step is a whole conversation between few, all others being deaf: one stands for election before some, a leader brings
one follower level, a leader changes the configuration. `explored` walks every sequence of steps up to a length.
"""

from collections.abc import Callable, Iterator
from copy import copy

from mesh.durable import Configuration, Entry
from mesh.ids import LogIndex, NodeId
from mesh.messages import RaftMessage
from mesh.raft.replica import Replica, Role
from tests.raft.cast import CONFIGURATION, encoded, replica, role

ROUNDS_MAX = 50
AGE_MS = 10_000
"""Every election comes this much later than all before: nobody still vouches for a leader."""


def cloned(original: Replica) -> Replica:
    """Another replica in the same state. Dice are shared: they only time what no step waits for."""
    twin = copy(original)
    twin._s = s = copy(original._s)
    s.log = copy(s.log)
    s.log._entries = [*s.log._entries]
    s.log.configurations = copy(s.log.configurations)
    s.log.configurations._history = [*s.log.configurations._history]
    s.journal = copy(s.journal)
    s.journal._in_flight = type(s.journal._in_flight)(map(copy, s.journal._in_flight))
    s.votes = {**s.votes}
    s.peers = {peer: copy(progress) for peer, progress in s.peers.items()}
    for progress in s.peers.values():
        progress._in_flight = progress._in_flight.copy()
    s.read_rounds = s.read_rounds.copy()
    for name in ("reads_waiting", "outgoing", "reads_confirmed", "reads_failed", "snapshots_needed"):
        setattr(s, name, [*getattr(s, name)])
    return twin


class Forked(AssertionError):
    """Two entries are committed at one place, or one that was is not there any more."""


class SmallMesh:
    """The replicas by name, and what was ever committed by any of them."""

    def __init__(self, configuration: Configuration) -> None:
        self.now_ms = 0
        self.replicas = {m.node_id: replica(m.node_id, configuration) for m in configuration.members}
        self.agreed: list[Entry] = []
        for name in self.replicas:
            self._settle(name)

    def clone(self) -> "SmallMesh":
        """Another one in the same state. Replicas are shared until a step takes part of them as its own."""
        twin = copy(self)
        twin.replicas = {**self.replicas}
        twin.agreed = [*self.agreed]
        return twin

    def _own(self, *names: NodeId) -> Replica:
        for name in names:
            self.replicas[name] = cloned(self.replicas[name])
        return self.replicas[names[0]]

    def key(self) -> tuple[object, ...]:
        """All that matters of a state: two with the same key have the same future."""
        return tuple(
            (
                one.term,
                one.voted_for,
                one.role is Role.LEADER,
                one.commit_index,
                tuple((e.term, e.kind, e.data) for e in one._s.log._entries),
                tuple((peer, match) for peer, match, _ in one.peers()),
            )
            for one in self.replicas.values()
        )

    # --- steps: each is False if nothing came of it ---

    def stand(self, name: NodeId, before: tuple[NodeId, ...]) -> bool:
        """`name` asks for votes, and only those are heard. False unless it is elected."""
        if self.replicas[name].role is Role.LEADER:
            return False
        candidate = self._own(name, *before)
        self.now_ms = max(self.now_ms + AGE_MS, candidate.next_deadline_ms())
        candidate.tick(self.now_ms)
        said = self._settle(name)
        for _ in range(ROUNDS_MAX):
            if role(candidate) is Role.LEADER or not said:
                break
            said = self._exchange(name, [one for one in said if one[0] in before])
        return role(candidate) is Role.LEADER

    def level(self, name: NodeId, peer: NodeId) -> bool:
        """A leader and one of its followers say to each other all there is to say."""
        leader = self._own(name, peer)
        if leader.role is not Role.LEADER or peer not in leader._s.peers:
            return False
        leader.link_up(peer, self.now_ms)
        said = self._settle(name)
        for _ in range(ROUNDS_MAX):
            said = [(to, message) for to, message in said if to == peer]
            if not said:
                break
            said = self._exchange(name, said)
        else:
            raise AssertionError("the two talk without end")
        if role(leader) is Role.LEADER and leader.commit_index > self.replicas[peer].commit_index:
            leader._s.start_round()
            self._exchange(name, [said_now for said_now in self._settle(name) if said_now[0] == peer])
        return True

    def change(self, name: NodeId, configuration: Configuration) -> bool:
        """A leader appends another configuration. False if it will not."""
        taken = self._own(name).propose(CONFIGURATION, encoded(configuration), self.now_ms)
        self._settle(name)
        return taken is not None

    # --- what happens in a step ---

    def _exchange(self, name: NodeId, said: list[tuple[NodeId, RaftMessage]]) -> list[tuple[NodeId, RaftMessage]]:
        """Deliver what `name` said, and what is answered; return what it says to that."""
        more: list[tuple[NodeId, RaftMessage]] = []
        for to, message in said:
            self.replicas[to].receive(name, message, self.now_ms)
            for back, answer in self._settle(to):
                if back == name:
                    self.replicas[name].receive(to, answer, self.now_ms)
            more += self._settle(name)
        return more

    def _settle(self, name: NodeId) -> list[tuple[NodeId, RaftMessage]]:
        """The disk of `name` syncs whatever there is. What it says meanwhile."""
        one = self.replicas[name]
        said: list[tuple[NodeId, RaftMessage]] = []
        for _ in range(ROUNDS_MAX):
            output = one.take()
            said += [(outgoing.to, outgoing.message) for outgoing in output.outgoing]
            if not output.persists:
                self._agree(name, one)
                return said
            one.durable(output.persists[-1].token, self.now_ms)
        raise AssertionError("a disk never comes to rest")

    def _agree(self, name: NodeId, one: Replica) -> None:
        """Committed once is committed for ever, the same everywhere."""
        committed = one.log.between(0, one.commit_index)
        for mine, known in zip(committed, self.agreed, strict=False):
            if mine != known:
                raise Forked(f"{name} commits {mine}, and {known} was committed there before")
        self.agreed += committed[len(self.agreed) :]
        if one.role is Role.LEADER:
            for known in self.agreed:
                if one.log.term_at(known.index) != known.term and one.term > self._committed_in(known.index):
                    raise Forked(f"{name} leads term {one.term} without {known}")

    def _committed_in(self, index: LogIndex) -> int:
        """In which term it was committed, at the latest: only the leaders of later ones must have it."""
        return min(one.term for one in self.replicas.values() if one.commit_index >= index)


Step = tuple[str, Callable[[SmallMesh], bool]]


def explored(start: SmallMesh, steps: Callable[[SmallMesh], Iterator[Step]], steps_max: int) -> tuple[int, list[str]]:
    """Every sequence of up to `steps_max` steps from `start`. The number of states, and the way to a fork."""
    seen = {start.key()}
    edge: list[tuple[SmallMesh, list[str]]] = [(start, [])]
    for _ in range(steps_max):
        further: list[tuple[SmallMesh, list[str]]] = []
        for state, way in edge:
            for name, step in steps(state):
                next_state = state.clone()
                try:
                    came_of_it = step(next_state)
                except Forked:
                    return len(seen), [*way, name]
                if came_of_it and (key := next_state.key()) not in seen:
                    seen.add(key)
                    further.append((next_state, [*way, name]))
        edge = further
    return len(seen), []
