"""Who is let in as a node, by the roll the core gave us, and which of its incarnations.

Judged alike: whoever dials us, by its HELLO, and whoever answers us, by its WELCOME.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass

from mesh.admission import Roll, Standing, Verdict, judge
from mesh.config import MEMBERS_MAX
from mesh.events import Knocked
from mesh.ids import LogIndex, NodeId
from mesh.transport.address import TransportRefused, parse
from mesh.transport.handshake import Hello, Welcome, printable
from mesh.transport.tally import Tally

KNOCK_MS = 1_000
"""A node that knocks again sooner is not announced again."""

KNOCKERS_MAX = 256
"""How many ids are announced within KNOCK_MS."""

_SENTENCES = {
    Verdict.STRANGER: "is not known here.",
    Verdict.REPLACED: "is known here with another log.",
    Verdict.REMOVED: "does not belong to this mesh any more.",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node is not let in. With a `verdict` it was judged by the roll at `index`."""

    sentence: str
    verdict: Verdict | None = None
    index: LogIndex = LogIndex(0)


@dataclass(frozen=True, slots=True)
class _Newest:
    """The latest incarnation of an id that was let in, the log it kept, and where it can be reached."""

    incarnation: int
    mark: str
    address: str


class Door:
    """The judgement on every node, either way of the link."""

    def __init__(
        self,
        dialled: Container[NodeId],
        tally: Tally,
        now_ms: Callable[[], float],
        knocked: Callable[[Knocked], None],
    ) -> None:
        """`dialled` are the nodes we dial just now; `knocked` hears of nodes that may ask to be taken in."""
        self.roll: Roll | None = None
        self._dialled = dialled
        self._tally = tally
        self._now_ms = now_ms
        self._knocked = knocked
        self._newest: dict[NodeId, _Newest] = {}
        self._knocks: dict[NodeId, float] = {}

    def admit(self, roll: Roll) -> None:
        """Judge by this roll from now on."""
        self.roll = roll
        members = {member.node_id for member in roll.everybody}
        for node_id in [node_id for node_id in self._newest if node_id not in members]:
            if node_id not in self._dialled:
                del self._newest[node_id]

    def forget(self, node_id: NodeId) -> None:
        """Nothing is known of its incarnations any more."""
        self._newest.pop(node_id, None)

    def lets_in(self, who: Hello | Welcome) -> bool:
        """Whether one that was let in before is still to be spoken with."""
        return self._verdict(who) is Verdict.ACCEPTED

    def refusal(self, hello: Hello) -> Refusal | None:
        """Why a node whose greeting is proved is not let in; None if it is."""
        refusal = self._refusal(hello)
        if refusal is None:
            self.note(hello)
        elif refusal.verdict in (Verdict.STRANGER, Verdict.REPLACED):
            self._knock(hello)
        return refusal

    def welcome_flaw(self, welcome: Welcome) -> str:
        """Why a node that answered is not spoken with, as a sentence; empty if it is."""
        refusal = self._refusal(welcome)
        return "" if refusal is None else refusal.sentence

    def note(self, who: Hello | Welcome) -> None:
        """This one is spoken with; earlier selves of it are not, from now on."""
        self._newest[who.node_id] = _Newest(who.incarnation, who.mark, who.address)

    def _refusal(self, who: Hello | Welcome) -> Refusal | None:
        verdict = self._verdict(who)
        if verdict is not Verdict.ACCEPTED:
            sentence = f"{who.node_id!r} {_SENTENCES[verdict]}"
            return Refusal(sentence) if self.roll is None else Refusal(sentence, verdict, self.roll.index)
        flaw = self._stale(who)
        if not flaw and len(self._newest) >= 2 * MEMBERS_MAX and who.node_id not in self._newest:
            flaw = f"There are {len(self._newest)} nodes here already."
        return Refusal(flaw) if flaw else None

    def _verdict(self, who: Hello | Welcome) -> Verdict:
        roll = self.roll
        if roll is None:
            return Verdict.ACCEPTED if who.node_id in self._dialled else Verdict.STRANGER
        if who.protocol > 1:
            return judge(roll, Standing(who.node_id, who.mark, who.since))
        # It does not know that there are marks, so all it has to be is one of those we expect.
        known = who.node_id in self._dialled or any(member.node_id == who.node_id for member in roll.everybody)
        return Verdict.ACCEPTED if known else Verdict.STRANGER

    def _stale(self, who: Hello | Welcome) -> str:
        newest = self._newest.get(who.node_id)
        if newest is None or (newest.mark != who.mark and self._is_successor(who)):
            return ""
        if who.incarnation < newest.incarnation:
            return f"Incarnation {who.incarnation} of {who.node_id!r} is over, {newest.incarnation} was here."
        if who.incarnation == newest.incarnation and who.address != newest.address and who.address and newest.address:
            return (
                f"Incarnation {who.incarnation} of {who.node_id!r} is at {newest.address}, not at {who.address}: "
                f"is one of them run from a copy of the other's data directory?"
            )
        return ""

    def _is_successor(self, who: Hello | Welcome) -> bool:
        """Whether it was let in for its log and not for its id alone. Then whatever came under another mark counts no
        more, even if that had seen more starts: a new directory counts them from 1."""
        roll = self.roll
        if roll is None or not who.mark:
            return False
        named = any(member.node_id == who.node_id and member.mark == who.mark for member in roll.members)
        return named or who.since > roll.index

    def _knock(self, hello: Hello) -> None:
        if not hello.mark:
            self._tally.count("unmarked", f"{hello.node_id!r} does not say which log it keeps, and cannot be taken in.")
            return
        now_ms = self._now_ms()
        if now_ms - self._knocks.get(hello.node_id, float("-inf")) < KNOCK_MS:
            return
        if len(self._knocks) >= KNOCKERS_MAX:
            self._knocks = {name: at_ms for name, at_ms in self._knocks.items() if now_ms - at_ms < KNOCK_MS}
        if len(self._knocks) >= KNOCKERS_MAX:
            self._tally.count("knock_dropped", f"{hello.node_id!r}: {KNOCKERS_MAX} others did within {KNOCK_MS} ms.")
            return
        if not _can_be_dialled(hello.address):
            self._tally.count("bad_address", f"{hello.node_id!r} says it is at {printable(hello.address)!r}.")
            return
        self._knocks[hello.node_id] = now_ms
        self._knocked(Knocked(hello.node_id, hello.address, hello.mark))


def _can_be_dialled(address: str) -> bool:
    try:
        return not parse(address).is_wildcard
    except TransportRefused:
        return False
