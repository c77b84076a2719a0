"""Sessions: a node in some role, and a while of messages that nobody correct would send.

A session is drawn from its seed. What stopped the node is shrunk to the fewest messages that still do, and kept as a
file of the corpus: hex of MessagePack, [role, [[how, who, data], ...]].
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import msgspec

from mesh import events
from mesh.ids import ClientId, LogIndex, NodeId
from mesh.messages import Heartbeat
from mesh.wire.codec import encode
from tests.fuzz.mutations import mutated
from tests.fuzz.solo import BEN, EVA, Solo
from tests.fuzz.words import PEER_KINDS, REQUEST_KINDS, Maker

ROLES = ("leader", "follower", "candidate", "learner", "fresh")
STEPS = 30
FROM_PEER, FROM_CLIENT, GOSSIP, PASS_MS, WORK, KNOCKED, TURNED_AWAY = range(7)
STRANGER = NodeId("kai")


class Step(NamedTuple):
    """One thing that happens to the node. `who` is a peer, a client's number, or how many milliseconds pass."""

    how: int
    who: str
    data: bytes


class Stopped(NamedTuple):
    """What stopped the node, and the whole session up to there."""

    seed: int
    role: str
    why: str
    steps: list[Step]


def drawn(roll: Random, solo: Solo, *, is_mad: bool) -> list[Step]:
    """What happens next: one step, or several that belong together."""
    maker = Maker(roll, solo.known(), is_mad=is_mad)
    peer = roll.choice((BEN, EVA, BEN, EVA, STRANGER))
    choice = roll.random()
    if choice < 0.55:
        return [Step(FROM_PEER, peer, encode(maker.message(PEER_KINDS)))]
    if choice < 0.62:
        return [Step(FROM_PEER, peer, mutated(encode(maker.message(PEER_KINDS)), roll))]
    if choice < 0.66 and is_mad:
        return [Step(FROM_PEER, peer, encode(message)) for message in maker.table()]
    if choice < 0.76:
        return [Step(FROM_CLIENT, str(roll.randint(1, 3)), encode(maker.message(REQUEST_KINDS)))]
    if choice < 0.84:
        return [Step(GOSSIP, "", encode(maker.struct(Heartbeat)))]
    if choice < 0.86:
        return [Step(KNOCKED, maker.text("node_id"), encode([maker.text("address"), maker.text("mark")]))]
    if choice < 0.88:
        return [Step(TURNED_AWAY, peer, encode([roll.randint(-1, 5), maker.number("index")]))]
    if choice < 0.95:
        return [Step(PASS_MS, str(roll.choice((1, 50, 400))), b"")]
    return [Step(WORK, "", b"")]


def take(solo: Solo, step: Step) -> None:
    """Let it happen. Raises whatever the node raises."""
    how, who, data = step
    if how == FROM_PEER:
        solo.feed(events.PeerMessage(NodeId(who), data))
    elif how == FROM_CLIENT:
        solo.feed(events.ClientMessage(ClientId(int(who)), data))
    elif how == GOSSIP:
        solo.feed(events.GossipReceived(data))
    elif how == PASS_MS:
        solo.run(int(who))
    elif how == KNOCKED:
        address, mark = msgspec.msgpack.decode(data, type=tuple[str, str])
        solo.feed(events.Knocked(NodeId(who), address, mark))
    elif how == TURNED_AWAY:
        verdict, index = msgspec.msgpack.decode(data, type=tuple[int, int])
        solo.feed(events.TurnedAway(NodeId(who), verdict, LogIndex(index)))
    else:
        solo.work()


MUST_STOP = "upgrade it"
"""What is committed and cannot be read was said by a later release: to go on without it would make another table."""


def session(seed: int, steps_max: int = STEPS, *, is_mad: bool = False) -> Stopped | None:
    """One node, one role, some steps. None if it is still there at the end."""
    roll = Random(seed)
    role = ROLES[seed % len(ROLES)]
    solo = Solo(role)
    taken: list[Step] = []
    while len(taken) < steps_max:
        try:
            wanted = drawn(roll, solo, is_mad=is_mad)
        except OverflowError:
            continue  # Made up beyond what MessagePack can say.
        for step in wanted:
            taken.append(step)
            why = stops(solo, step)
            if MUST_STOP in why:
                return None
            if why:
                return Stopped(seed, role, why, taken)
    return None


def stops(solo: Solo, step: Step) -> str:
    """How this step stops the node, in words; empty if it does not."""
    try:
        take(solo, step)
    except Exception as error:  # Nothing at all may come out.
        return f"{type(error).__name__}: {error}"
    return ""


def replay(role: str, steps: Sequence[Step]) -> str:
    """The same steps once more, to a node in this role. What stops it; empty if nothing does."""
    solo = Solo(role)
    return next((why for why in (stops(solo, step) for step in steps) if why), "")


def shrunk(stopped: Stopped) -> list[Step]:
    """As few of the steps as will do for the same kind of end."""
    kind, steps = stopped.why.partition(":")[0], list(stopped.steps)
    position = 0
    while position < len(steps):
        fewer = steps[:position] + steps[position + 1 :]
        if replay(stopped.role, fewer).startswith(kind):
            steps = fewer
        else:
            position += 1
    return steps


def to_hex(role: str, steps: Sequence[Step]) -> str:
    text = encode([role, [list(step) for step in steps]]).hex()
    return "\n".join(text[at : at + 120] for at in range(0, len(text), 120)) + "\n"


def from_hex(text: str) -> tuple[str, list[Step]]:
    role, steps = msgspec.msgpack.decode(bytes.fromhex(text), type=tuple[str, list[tuple[int, str, bytes]]])
    return role, [Step(*step) for step in steps]
