"""Who belongs: links are kept to the members of the roll and to nobody else, and those who knock are heard."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
import zmq

from mesh.admission import Roll, Verdict
from mesh.config import PROTOCOL
from mesh.durable import Member
from mesh.effects import Channel
from mesh.events import Event, Knocked, LinkDown, LinkUp, PeerMessage, TurnedAway
from mesh.ids import LogIndex, NodeId
from mesh.transport import NODE, Identity
from mesh.transport.curve import derive
from mesh.transport.door import KNOCK_MS, KNOCKERS_MAX, Door
from mesh.transport.handshake import NONCE_BYTES, Hello, Notary, read_hello
from mesh.transport.tally import Tally
from tests.transport.stage import ANA, BEN, CLUSTER, EVA, SECRET, free_base, played, roll, stage


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_the_roll_makes_the_links(secret: bytes | None) -> None:
    """Three nodes get the same roll. Each is linked with the two others and learns which log they keep."""

    @played
    async def story() -> None:
        with stage() as s:
            ana, ben, eva = (s.node(name, secret=secret, mark=f"m-{name}") for name in ("ana", "ben", "eva"))
            s.admit(4, ana, ben, eva)
            await ana.hears(LinkUp(BEN, 1, "m-ben"))
            await ana.hears(LinkUp(EVA, 1, "m-eva"))
            await ben.hears(LinkUp(EVA, 1, "m-eva"))
            await eva.hears(LinkUp(BEN, 1, "m-ben"))
            assert eva.transport.send(BEN, Channel.DATA, b"neighbour")
            await ben.hears(PeerMessage(EVA, b"neighbour"))
            assert len(ana.events) == 2
            assert (ana.transport.counters, eva.transport.counters) == ({}, {})

    story()


@played
async def test_who_left_the_roll_is_let_go_and_who_moved_is_followed() -> None:
    """Eva is not in the next roll, and Ben is elsewhere in it. Ana's links follow; the same roll again changes
    nothing."""
    with stage() as s:
        ana, ben, eva = (s.node(name) for name in ("ana", "ben", "eva"))
        s.admit(4, ana, ben, eva)
        await ana.hears(LinkUp(BEN, 1))
        await ana.hears(LinkUp(EVA, 1))
        await eva.hears(LinkUp(ANA, 1))
        moved = s.node("ben", incarnation=2)
        s.admit(5, ana, moved)
        await ana.hears(LinkUp(BEN, 2))
        await eva.hears(TurnedAway(ANA, Verdict.REMOVED, LogIndex(5)))
        assert not ana.transport.send(EVA, Channel.CTL, b"gone")
        heard = len(ana.events)
        assert set(ana.events[2:heard]) == {LinkDown(EVA), LinkDown(BEN), LinkUp(BEN, 2)}
        s.admit(5, ana, moved)
        assert ana.transport.send(BEN, Channel.CTL, b"still there")
        await moved.hears(PeerMessage(ANA, b"still there"))
        assert len(ana.events) == heard


@played
async def test_before_the_first_roll_only_those_who_were_dialled_are_let_in() -> None:
    """Ben has no roll yet and dials Ana. Her link comes up; Eva is refused, and neither of the two cores hears of
    it."""
    with stage() as s:
        ana, ben, eva = (s.node(name, mark=f"m-{name}") for name in ("ana", "ben", "eva"))
        ben.dial(ana)
        ana.dial(ben)
        await ana.hears(LinkUp(BEN, 1, "m-ben"))
        await ben.hears(LinkUp(ANA, 1, "m-ana"))
        eva.dial(ben)
        await eva.counts("refused_by_peer")
        assert (eva.events, len(ben.events)) == ([], 1)


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_a_stranger_knocks_and_is_in_as_soon_as_it_is_admitted(secret: bytes | None) -> None:
    """E24: Eva is in no roll. Ana's core hears where she is and which log she keeps, Eva's that she was turned away.
    As soon as the roll has her she is linked both ways, without a restart, within a second."""

    @played
    async def story() -> None:
        with stage() as s:
            ana, ben, eva = (s.node(name, secret=secret, mark=f"m-{name}") for name in ("ana", "ben", "eva"))
            s.admit(4, ana, ben)
            eva.transport.admit(Roll(LogIndex(0), True, ()), LogIndex(0))
            eva.dial(ana)
            await ana.hears(Knocked(EVA, eva.address, "m-eva"))
            await eva.hears(TurnedAway(ANA, Verdict.STRANGER, LogIndex(4)))
            # It was refused on both channels, and is told once.
            assert 2 * len(eva.told(TurnedAway)) <= eva.transport.counters["refused_by_peer"] + 1
            assert eva.told(LinkUp) == []
            assert ana.told(LinkUp) in ([], [LinkUp(BEN, 1, "m-ben")])
            admitted = time.monotonic()
            for member in (ana, ben):
                member.transport.admit(roll(5, ana, ben, eva), LogIndex(5))
            await ana.hears(LinkUp(EVA, 1, "m-eva"))
            await eva.hears(LinkUp(ANA, 1, "m-ana"))
            assert time.monotonic() - admitted < 1
            eva.transport.admit(roll(5, ana, ben, eva), LogIndex(5))
            await eva.hears(LinkUp(BEN, 1, "m-ben"))
            assert time.monotonic() - admitted < 1
            assert eva.transport.send(BEN, Channel.CTL, b"here I am")
            await ben.hears(PeerMessage(EVA, b"here I am"))

    story()


@played
async def test_a_knock_may_be_answered_at_once() -> None:
    """Ana's core changes the roll while it is being told of the knock. Eva is linked all the same."""
    with stage() as s:
        ana, eva = (s.node(name, mark=f"m-{name}") for name in ("ana", "eva"))
        s.admit(4, ana)

        def take_in(event: Event) -> None:
            if isinstance(event, Knocked):
                ana.transport.admit(roll(5, ana, eva), LogIndex(5))

        ana.on_event = take_in
        eva.transport.admit(Roll(LogIndex(0), True, ()), LogIndex(0))
        eva.dial(ana)
        await ana.hears(LinkUp(EVA, 1, "m-eva"))
        await eva.hears(LinkUp(ANA, 1, "m-ana"))
        assert ana.told(Knocked) == [Knocked(EVA, eva.address, "m-eva")]


@played
async def test_a_roll_may_be_followed_by_another_while_it_is_put_in_force() -> None:
    """Ben is not in the roll at 5, and when Ana's core is told that his link is down it has a roll at 6 already. Eva,
    whom only the one at 5 has, is not dialled."""
    with stage() as s:
        ana, ben, eva = (s.node(name) for name in ("ana", "ben", "eva"))
        s.admit(4, ana, ben)
        await ana.hears(LinkUp(BEN, 1))

        def go_on(event: Event) -> None:
            if event == LinkDown(BEN):
                ana.transport.admit(roll(6, ana), LogIndex(6))

        ana.on_event = go_on
        ana.transport.admit(roll(5, ana, eva), LogIndex(5))
        assert list(ana.transport._peers) == []
        assert ana.transport._around.notary.since == 6


@played
async def test_one_that_took_the_place_of_another_is_let_in_while_that_one_is_still_here() -> None:
    """Ana lags: her roll has the old log of Ben, whose seventh start is linked. The new one, in its first, knows of a
    later roll that has it. It is let in and has the id from then on."""
    with stage() as s:
        ana = s.node("ana", mark="m-ana")
        old, new = s.node("ben", mark="m-old", incarnation=7), s.node("ben", mark="m-new")
        ana.transport.admit(roll(4, old), LogIndex(0))
        old.dial(ana)
        await old.hears(LinkUp(ANA, 1, "m-ana"))
        new.transport.admit(roll(9, ana, new), LogIndex(9))
        await new.hears(LinkUp(ANA, 1, "m-ana"))
        for channel in (Channel.CTL, Channel.DATA):
            assert ana.transport._listeners[channel]._nodes[BEN].hello.mark == "m-new"


@played
async def test_whom_we_reached_counts_as_having_been_here() -> None:
    """Ana dialled incarnation 3 of Ben, which never dialled her. Incarnation 2 dials, and is over."""
    with stage() as s:
        ana, third, second = s.node("ana"), s.node("ben", incarnation=3), s.node("ben", incarnation=2)
        third.lets_in(ANA)
        ana.dial(third)
        await ana.hears(LinkUp(BEN, 3))
        second.dial(ana)
        await second.counts("refused_by_peer")
        assert second.events == []
        assert ana.events == [LinkUp(BEN, 3)]


@played
async def test_another_log_under_a_known_id_takes_its_place_when_the_roll_says_so() -> None:
    """Ben's directory is lost; he comes back under another mark, his starts counted from 1 again. He is turned away
    as replaced and heard to knock. Once the roll has his new mark he is linked, and the old Ben, who is found
    again, is turned away."""
    with stage() as s:
        ana = s.node("ana", mark="m-ana")
        old = s.node("ben", mark="m-old", incarnation=7)
        s.admit(4, ana, old)
        await ana.hears(LinkUp(BEN, 7, "m-old"))
        old.transport.close()
        new = s.node("ben", base=old.base, mark="m-new")
        new.transport.admit(Roll(LogIndex(0), True, ()), LogIndex(0))
        new.dial(ana)
        await new.hears(TurnedAway(ANA, Verdict.REPLACED, LogIndex(4)))
        await ana.hears(Knocked(BEN, new.address, "m-new"))
        await ana.counts("welcome_refused")
        assert LinkUp(BEN, 1, "m-new") not in ana.events
        s.admit(5, ana, new)
        await ana.hears(LinkUp(BEN, 1, "m-new"))
        await new.hears(LinkUp(ANA, 1, "m-ana"))
        found = s.node("ben", mark="m-old", incarnation=8)
        found.transport.admit(roll(4, ana, old), LogIndex(4))
        await found.hears(TurnedAway(ANA, Verdict.REPLACED, LogIndex(5)))
        assert found.told(LinkUp) == []
        assert ana.transport.send(BEN, Channel.CTL, b"to the new one")
        await new.hears(PeerMessage(ANA, b"to the new one"))


@played
async def test_links_to_a_log_that_was_replaced_are_cut() -> None:
    """Ana and Ben are linked when the roll gets another mark for Ben. Both links end, nothing more is sent on them,
    and he is told why."""
    with stage() as s:
        ana, ben = (s.node(name, mark=f"m-{name}") for name in ("ana", "ben"))
        s.admit(4, ana, ben)
        await ana.hears(LinkUp(BEN, 1, "m-ben"))
        await ben.hears(LinkUp(ANA, 1, "m-ana"))
        other = Member(BEN, ben.address, "m-other")
        ana.transport.admit(Roll(LogIndex(5), True, (ana.member, other)), LogIndex(5))
        assert ana.events[-1] == LinkDown(BEN)
        assert not ana.transport.send(BEN, Channel.CTL, b"for the other")
        await ben.hears(LinkDown(ANA))
        await ben.hears(TurnedAway(ANA, Verdict.REPLACED, LogIndex(5)))
        assert ana.events[:2] == [LinkUp(BEN, 1, "m-ben"), LinkDown(BEN)]


@played
async def test_the_first_mark_a_roll_has_changes_nothing_for_who_bears_it() -> None:
    """The founding roll knows no marks; the next has those that were heard. The links stay."""
    with stage() as s:
        ana, ben = (s.node(name, mark=f"m-{name}") for name in ("ana", "ben"))
        unmarked = Roll(LogIndex(1), True, tuple(Member(who.name, who.address) for who in (ana, ben)))
        for who in (ana, ben):
            who.transport.admit(unmarked, LogIndex(1))
        await ana.hears(LinkUp(BEN, 1, "m-ben"))
        await ben.hears(LinkUp(ANA, 1, "m-ana"))
        s.admit(2, ana, ben)
        assert ana.transport.send(BEN, Channel.CTL, b"as before")
        await ben.hears(PeerMessage(ANA, b"as before"))
        assert (len(ana.events), len(ben.events)) == (1, 2)


@played
async def test_who_answers_is_judged_as_well() -> None:
    """Ana dials Ben, who would speak with her, but keeps another log than her roll says. No link is told of; as soon
    as her roll has his, there is one."""
    with stage() as s:
        ana, ben = (s.node(name, mark=f"m-{name}") for name in ("ana", "ben"))
        ben.lets_in(ANA)
        ana.transport.admit(Roll(LogIndex(4), True, (ana.member, Member(BEN, ben.address, "m-x"))), LogIndex(4))
        await ana.counts("welcome_refused")
        assert ana.events == []
        changed = time.monotonic()
        ana.transport.admit(roll(5, ana, ben), LogIndex(5))
        await ana.hears(LinkUp(BEN, 1, "m-ben"))
        assert time.monotonic() - changed < 0.4
        assert ana.events == [LinkUp(BEN, 1, "m-ben")]


@played
async def test_who_knows_more_than_we_is_taken_at_its_word() -> None:
    """Ben lags: his roll has Ana alone. Eva came later, as her standing says, and is let in; when his roll has caught
    up and is without her, she is cut, and it is final."""
    with stage() as s:
        ana, ben, eva = (s.node(name, mark=f"m-{name}") for name in ("ana", "ben", "eva"))
        ben.transport.admit(roll(4, ana, ben), LogIndex(4))
        eva.transport.admit(roll(6, ana, ben, eva), LogIndex(6))
        await eva.hears(LinkUp(BEN, 1, "m-ben"))
        assert eva.transport.send(BEN, Channel.CTL, b"catch up")
        await ben.hears(PeerMessage(EVA, b"catch up"))
        ben.transport.admit(roll(7, ana, ben), LogIndex(7))
        await eva.hears(TurnedAway(BEN, Verdict.REMOVED, LogIndex(7)))
        assert eva.told(LinkDown) == [LinkDown(BEN)]
        assert not eva.transport.send(BEN, Channel.CTL, b"cut")
        assert ben.told(Knocked) == []


@played
async def test_what_was_dialled_by_hand_stays_until_we_belong() -> None:
    """Eva joins. She follows a log whose early rolls are without her and without Ana, whom she was told to dial; that
    link stays until a roll has Eva herself. Then only the roll counts."""
    with stage() as s:
        ana, ben, eva = (s.node(name) for name in ("ana", "ben", "eva"))
        since = LogIndex(9)
        ana.transport.admit(roll(9, ben, eva), since)
        ben.lets_in(EVA)
        eva.dial(ana)
        await eva.hears(LinkUp(ANA, 1))
        eva.transport.admit(roll(1, ben), LogIndex(0))
        await eva.hears(LinkUp(BEN, 1))
        assert LinkDown(ANA) not in eva.events
        eva.transport.admit(roll(9, ben, eva), since)
        assert eva.events[-1] == LinkDown(ANA)
        assert list(eva.transport._peers) == [BEN]
        assert eva.transport.send(BEN, Channel.CTL, b"I belong")
        await ben.hears(PeerMessage(EVA, b"I belong"))


@played
async def test_only_who_proves_it_may_knock() -> None:
    """Somebody with the key but not the secret behind greetings says he is Eva. Nobody is told that Eva knocked."""
    with stage() as s:
        ana = s.node("ana", secret=SECRET, mark="m-ana")
        s.admit(4, ana)
        for secret, answered in ((None, b"not signed"), (SECRET, b"not known here")):
            identity = Identity(node_id="eva", cluster=CLUSTER, incarnation=1, role=NODE, secret=secret, mark="m-eva")
            forged = Notary(identity, derive(SECRET) if secret else None, "127.0.0.1:21000")
            with _keyed(zmq.DEALER) as bare:
                bare.connect(f"tcp://127.0.0.1:{ana.base}")
                bare.send(forged.hello(Channel.CTL, b"n" * NONCE_BYTES, PROTOCOL))
                assert answered in await asyncio.to_thread(bare.recv)
        assert ana.events == [Knocked(EVA, "127.0.0.1:21000", "m-eva")]


@contextmanager
def _keyed(kind: int) -> Iterator["zmq.Socket[bytes]"]:
    """A bare socket with the mesh's key, for either end."""
    keys = derive(SECRET)
    with zmq.Context() as context, context.socket(kind) as bare:
        bare.linger = 0
        bare.rcvtimeo = 5_000
        bare.curve_secretkey = keys.private
        if kind == zmq.ROUTER:
            bare.curve_server = True
        else:
            bare.curve_publickey = bare.curve_serverkey = keys.public
        yield bare


@pytest.mark.parametrize("forger", ["unsigned", "for another greeting", "signed"])
def test_nobody_without_the_secret_makes_a_node_believe_it_was_removed(forger: str) -> None:
    """On Ben's address somebody tells Ana that she was removed. She believes it only when it is signed, for this
    greeting of hers; she retries in any case."""

    @played
    async def story() -> None:
        with stage() as s, _keyed(zmq.ROUTER) as bare:
            ana = s.node("ana", secret=SECRET, mark="m-ana")
            base = free_base()
            bare.bind(f"tcp://127.0.0.1:{base}")
            ana.transport.dial(BEN, f"127.0.0.1:{base}")
            routing_id, raw = await asyncio.to_thread(bare.recv_multipart)
            hello = read_hello(raw)
            assert hello is not None
            identity = Identity(node_id="ben", cluster=CLUSTER, incarnation=1, role=NODE, secret=SECRET)
            notary = Notary(identity, None if forger == "unsigned" else derive(SECRET), "")
            if forger == "for another greeting":
                hello = msgspec.structs.replace(hello, nonce=b"x" * 16)
            answer = notary.turned_away(Channel.CTL, hello, Verdict.REMOVED, LogIndex(9), "You were removed.")
            bare.send_multipart([routing_id, answer])
            await ana.counts("refused_by_peer")
            told = [TurnedAway(BEN, Verdict.REMOVED, LogIndex(9))]
            assert ana.events == (told if forger == "signed" else [])
            again = await asyncio.to_thread(bare.recv_multipart)
            assert read_hello(again[1]) is not None

    story()


# --- the door alone, with a clock of its own


class _Hall:
    """A door whose clock stands where the test puts it."""

    def __init__(self, *members: Member, index: int = 4) -> None:
        self.now_ms = 0
        self.knocks: list[Knocked] = []
        self.tally = Tally()
        self.dialled: list[NodeId] = []
        self.door = Door(self.dialled, self.tally, lambda: self.now_ms, self.knocks.append)
        self.roll(*members, index=index)

    def roll(self, *members: Member, index: int) -> None:
        self.door.admit(Roll(LogIndex(index), True, members))

    def refusal(self, hello: Hello) -> tuple[str, Verdict | None]:
        refused = self.door.refusal(hello)
        return ("", None) if refused is None else (refused.sentence, refused.verdict)


def _hello(
    name: str = "ben",
    *,
    incarnation: int = 1,
    mark: str = "m-ben",
    since: int = 0,
    address: str = "127.0.0.1:21000",
    protocol: int = PROTOCOL,
) -> Hello:
    return Hello(protocol, 1, CLUSTER, NodeId(name), incarnation, NODE, b"n" * 16, mark, LogIndex(since), address, b"")


def test_a_knock_is_announced_once_a_second() -> None:
    """Ben knocks all the time: on both ports, and again after 999 ms. The core hears it at 0 and at 1,000."""
    hall = _Hall()
    for now_ms in (0, 0, 1, 999, 1_000, 1_001):
        hall.now_ms = now_ms
        assert hall.refusal(_hello()) == ("'ben' is not known here.", Verdict.STRANGER)
    assert hall.knocks == [Knocked(BEN, "127.0.0.1:21000", "m-ben")] * 2


def test_so_many_may_knock_within_a_second_and_no_more() -> None:
    """As many ids as there is room for, and one more: it is counted, and heard when the second is over."""
    hall = _Hall()
    for i in range(KNOCKERS_MAX + 1):
        hall.refusal(_hello(f"n{i}"))
    assert len(hall.knocks) == KNOCKERS_MAX
    assert hall.tally.counters == {"knock_dropped": 1}
    hall.now_ms = KNOCK_MS
    hall.refusal(_hello(f"n{KNOCKERS_MAX}"))
    assert hall.knocks[-1].node_id == f"n{KNOCKERS_MAX}"
    assert len(hall.door._knocks) == 1


def test_who_cannot_be_taken_in_is_not_announced() -> None:
    """One that does not name its log, one that cannot be dialled, one of protocol 1 that cannot say either, and one
    that was removed."""
    hall = _Hall()
    hall.refusal(_hello(mark=""))
    hall.refusal(_hello(address="*:21000"))
    hall.refusal(_hello(address="nonsense"))
    hall.refusal(_hello(protocol=1, mark="", address=""))
    assert hall.refusal(_hello(since=3)) == ("'ben' does not belong to this mesh any more.", Verdict.REMOVED)
    assert hall.knocks == []
    assert hall.tally.counters == {"unmarked": 2, "bad_address": 2}


def test_a_node_of_protocol_1_is_known_by_its_id() -> None:
    """It is let in while the roll has its id, whatever the mark there; another is a stranger."""
    hall = _Hall(Member(BEN, "127.0.0.1:21000", "m-ben"))
    old = _hello(protocol=1, mark="", address="")
    assert hall.refusal(old) == ("", None)
    assert hall.refusal(_hello("eva", protocol=1, mark="", address=""))[1] is Verdict.STRANGER
    hall.roll(index=5)
    assert not hall.door.lets_in(old)


def test_incarnations_of_one_log_only_grow() -> None:
    """3 of Ben was here. 2 is over, also after the next roll; 3 and 4 are not. Another log counts from 1 again, as
    soon as the roll names it, or it knows of a later one that does; not while nobody knows marks."""
    here = "127.0.0.1:21000"
    hall = _Hall(Member(BEN, here))
    over = ("Incarnation 2 of 'ben' is over, 3 was here.", None)
    assert hall.refusal(_hello(incarnation=3)) == ("", None)
    assert hall.refusal(_hello(incarnation=2)) == over
    assert hall.refusal(_hello(incarnation=2, mark="m-2")) == over
    hall.roll(Member(BEN, here, "m-ben"), index=5)
    assert hall.refusal(_hello(incarnation=2)) == over
    assert hall.refusal(_hello(incarnation=3)) == ("", None)
    assert hall.refusal(_hello(incarnation=1, mark="m-2", since=6)) == ("", None)
    assert hall.refusal(_hello(incarnation=4)) == ("", None)
    hall.roll(Member(BEN, here, "m-2"), index=6)
    assert hall.refusal(_hello(incarnation=1, mark="m-2")) == ("", None)
    assert hall.refusal(_hello(incarnation=4))[1] is Verdict.REPLACED
    hall.roll(index=7)
    hall.roll(Member(BEN, here), index=8)
    assert hall.refusal(_hello(incarnation=1)) == ("", None)


def test_one_incarnation_is_at_one_address() -> None:
    """E15: two processes run on copies of one directory, so both are incarnation 3 of the same log. Whoever came first
    stays, for as long as it is known; the other is told, and so neither drives the other out again and again."""
    hall = _Hall(Member(BEN, "127.0.0.1:21000", "m-ben"))
    assert hall.refusal(_hello(incarnation=3)) == ("", None)
    sentence, verdict = hall.refusal(_hello(incarnation=3, address="127.0.0.1:22000"))
    assert "copy of the other's data directory" in sentence
    assert verdict is None
    assert hall.refusal(_hello(incarnation=3)) == ("", None)
    assert hall.refusal(_hello(incarnation=4, address="127.0.0.1:22000")) == ("", None)
