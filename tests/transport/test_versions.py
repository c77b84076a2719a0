"""Two releases in one mesh: this one and the one before get on, and anything else is told which protocols there are.

What the last release said is kept here in bytes, made by its own code, and in its own structs; so this release cannot
change what it says to the last one without a test that fails.
"""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
import zmq

from mesh.effects import Channel
from mesh.events import GossipReceived, LinkDown, LinkUp, PeerMessage
from mesh.transport import CLIENT, NODE, Identity
from mesh.transport.curve import derive
from mesh.transport.handshake import Notary, read_hello, read_welcome
from tests.transport.stage import ANA, BEN, EVA, SECRET, free_base, played, roll, stage

NONCE = b"n" * 16

# --- the last release: frozen. Do not edit what is between here and the next rule.


class HelloOfTheLastRelease(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Protocol 1."""

    protocol: int
    cluster: str
    node_id: str
    incarnation: int
    role: str
    nonce: bytes
    mac: bytes


class WelcomeOfTheLastRelease(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Protocol 1."""

    protocol: int
    cluster: str
    node_id: str
    incarnation: int
    mac: bytes


HELLOS = {
    ("open", NODE, Channel.CTL): "029701a463617374a362656e03a46e6f6465c4106e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6ec400",
    ("open", CLIENT, Channel.DATA): "029701a463617374a362656e03a6636c69656e74c4106e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6ec400",
    ("secret", NODE, Channel.CTL): (
        "029701a463617374a362656e03a46e6f6465c4106e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e"
        "c420534e35e78425b2f1c534ea2d744011b4c3d80a8a8e3abcbf9d91b93cb5e77840"
    ),
    ("secret", CLIENT, Channel.DATA): (
        "029701a463617374a362656e03a6636c69656e74c4106e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e"
        "c420b5c8b84d62af11114f5181928ba67fd53ba7a818407a228294383138d94b830c"
    ),
}
"""Of "ben", incarnation 3, mesh "cast", with the stage's secret or none: frames, in hexadecimal."""

WELCOMES = {
    ("open", Channel.CTL): "039501a463617374a3616e61ce00011170c400",
    ("open", Channel.DATA): "039501a463617374a3616e61ce00011170c400",
    ("secret", Channel.CTL): (
        "039501a463617374a3616e61ce00011170c4204373fd4183770b8368aa2dc5caa049f59c6badc493b8f421b8352b46666823fe"
    ),
    ("secret", Channel.DATA): (
        "039501a463617374a3616e61ce00011170c42033e0e176a63dc8944b61f1e07bc75d285b8c6792b1d48b3b6556ec307e7d4bef"
    ),
}
"""Of "ana", incarnation 70,000, in answer to a greeting with the same nonce."""

REHELLO_OF_THE_LAST_RELEASE = b"\5"
REFUSED_BY_THE_LAST_RELEASE = b"\4"


# --- this release


def _notary(name: str, incarnation: int, guard: str, *, role: str = NODE, protocol: int = 2) -> Notary:
    secret = SECRET if guard == "secret" else None
    identity = Identity(
        node_id=name,
        cluster="cast",
        incarnation=incarnation,
        role=role,
        secret=secret,
        mark="m-1",
        protocol=protocol,
    )
    return Notary(identity, derive(secret) if secret else None, "127.0.0.1:21000")


@pytest.mark.parametrize(("guard", "role", "channel"), HELLOS)
@pytest.mark.parametrize("protocol", [1, 2])
def test_a_greeting_in_protocol_1_is_what_the_last_release_said(
    guard: str, role: str, channel: Channel, protocol: int
) -> None:
    """Byte for byte, whether it is said by a node that speaks nothing later or by one that does; and it is believed."""
    golden = bytes.fromhex(HELLOS[guard, role, channel])
    assert _notary("ben", 3, guard, role=role, protocol=protocol).hello(channel, NONCE, 1) == golden
    said = msgspec.msgpack.decode(golden[1:], type=HelloOfTheLastRelease)
    assert (said.protocol, said.cluster, said.node_id, said.incarnation, said.role) == (1, "cast", "ben", 3, role)
    ana = _notary("ana", 70_000, guard, protocol=protocol)
    hello = ana.read_hello(golden)
    assert hello is not None
    assert ana.hello_flaw(hello, channel) == ""


@pytest.mark.parametrize(("guard", "channel"), WELCOMES)
@pytest.mark.parametrize("protocol", [1, 2])
def test_a_welcome_in_protocol_1_is_what_the_last_release_said(guard: str, channel: Channel, protocol: int) -> None:
    """Byte for byte, in answer to a greeting of the last release; and it is believed."""
    golden = bytes.fromhex(WELCOMES[guard, channel])
    ben = _notary("ben", 3, guard, protocol=protocol)
    hello = read_hello(ben.hello(channel, NONCE, 1))
    assert hello is not None
    assert _notary("ana", 70_000, guard, protocol=protocol).welcome(channel, hello) == golden
    said = msgspec.msgpack.decode(golden[1:], type=WelcomeOfTheLastRelease)
    assert (said.protocol, said.cluster, said.node_id, said.incarnation) == (1, "cast", "ana", 70_000)
    welcome = ben.read_welcome(golden)
    assert welcome is not None
    assert ben.welcome_flaw(welcome, channel, NONCE, ANA, 1) == ""


def test_what_is_new_is_nothing_the_last_release_could_misread() -> None:
    """A greeting in protocol 2 is no greeting to the last release's structs, nor to a node that speaks as it did."""
    ben = _notary("ben", 3, "secret")
    raw = ben.hello(Channel.CTL, NONCE, 2)
    hello = read_hello(raw)
    assert hello is not None
    answer = ben.welcome(Channel.CTL, hello)
    for body, kind in ((raw, HelloOfTheLastRelease), (answer, WelcomeOfTheLastRelease)):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(body[1:], type=kind)
    assert read_hello(raw, 1) is None
    assert read_welcome(answer, 1) is None
    assert read_welcome(answer, 2) is not None


@contextmanager
def _bare(
    kind: int, *, base: int, channel: Channel = Channel.CTL, bound: bool = False
) -> Iterator["zmq.Socket[bytes]"]:
    with zmq.Context() as context, context.socket(kind) as made:
        made.linger = 0
        made.rcvtimeo = 5_000
        (made.bind if bound else made.connect)(f"tcp://127.0.0.1:{base + channel}")
        yield made


def _hello(*said: object) -> bytes:
    return b"\2" + msgspec.msgpack.encode(said)


_V1 = _hello(1, "cast", "ben", 3, "node", NONCE, b"")
_V2 = _hello(2, 1, "cast", "ben", 3, "node", NONCE, "m-ben", 0, "127.0.0.1:21000", b"")
_OTHERS = {
    "2 in the form of 1": _hello(2, "cast", "ben", 3, "node", NONCE, b""),
    "0": _hello(0, "cast", "ben", 3, "node", NONCE, b""),
    "3, and 2 as well": _hello(3, 2, "cast", "ben", 3, "node", NONCE, "m-ben", 0, "127.0.0.1:21000", {}, b""),
    "4, and 3 as well": _hello(4, 3, ["whatever", "comes"]),
}


def _answers(base: int) -> dict[str, bytes]:
    """What a listener answers to each greeting, on a connection of its own."""
    found = {}
    for name, said in {"1": _V1, "2": _V2, **_OTHERS}.items():
        with _bare(zmq.DEALER, base=base) as bare:
            bare.send(said)
            found[name] = bare.recv()
    return found


@played
async def test_what_this_release_answers_to_any_protocol() -> None:
    """N and N-1 are welcomed in kind. Who speaks something later is asked to say it again if that may help, and else
    told in one sentence which two protocols there are."""
    with stage() as s:
        ana = s.node("ana", mark="m-ana")
        ana.lets_in(BEN)
        answers = await asyncio.to_thread(_answers, ana.base)
        neither = b"\4Protocol %d is not spoken here, 1 and 2 are."
        assert answers == {
            "1": b"\3" + msgspec.msgpack.encode(WelcomeOfTheLastRelease(1, "cast", "ana", 1, b"")),
            "2": b"\3" + msgspec.msgpack.encode([2, 1, "cast", "ana", 1, "m-ana", 0, ana.address, b""]),
            "2 in the form of 1": REHELLO_OF_THE_LAST_RELEASE,
            "0": neither % 0,
            "3, and 2 as well": b"\5",
            "4, and 3 as well": neither % 4,
        }
        assert ana.transport.counters == {"rubbish": 1, "hello_refused": 2, "later_protocol": 1}


@played
async def test_a_node_set_to_the_last_protocol_answers_as_the_last_release_did() -> None:
    """The same greetings, to a node with Identity(protocol=1)."""
    with stage() as s:
        ana = s.node("ana", mark="m-ana", protocol=1)
        ana.lets_in(BEN)
        answers = await asyncio.to_thread(_answers, ana.base)
        assert answers == {
            "1": b"\3" + msgspec.msgpack.encode(WelcomeOfTheLastRelease(1, "cast", "ana", 1, b"")),
            "2": REHELLO_OF_THE_LAST_RELEASE,
            "2 in the form of 1": REFUSED_BY_THE_LAST_RELEASE + b"Protocol 2 is not spoken here, 1 is.",
            "0": REFUSED_BY_THE_LAST_RELEASE + b"Protocol 0 is not spoken here, 1 is.",
            "3, and 2 as well": REHELLO_OF_THE_LAST_RELEASE,
            "4, and 3 as well": REHELLO_OF_THE_LAST_RELEASE,
        }
        ana.lets_in(EVA)
        with _bare(zmq.DEALER, base=ana.base) as bare:
            bare.send(_V1)
            assert await asyncio.to_thread(bare.recv) == REFUSED_BY_THE_LAST_RELEASE + b"'ben' is not known here."


@pytest.mark.parametrize("protocol", [1, 2])
def test_what_a_dialler_says_to_a_listener_of_the_last_release(protocol: int) -> None:
    """Played by hand with the last release's structs. A node of this release begins with its own greeting, is told to
    say it again, and says what the last release can read, on the same connection; one that is set to protocol 1 says
    so at once. The link is up, and its messages are as ever."""

    @played
    async def story() -> None:
        with stage() as s:
            base = free_base()
            ana = s.node("ana", mark="m-ana", incarnation=5, protocol=protocol)
            with (
                _bare(zmq.ROUTER, base=base, bound=True) as ctl,
                _bare(zmq.ROUTER, base=base, bound=True, channel=Channel.DATA) as data,
            ):
                ana.transport.dial(BEN, f"127.0.0.1:{base}")
                for bare in (ctl, data):
                    first, raw = await asyncio.to_thread(bare.recv_multipart)
                    if protocol == 2:
                        with pytest.raises(msgspec.ValidationError):
                            msgspec.msgpack.decode(raw[1:], type=HelloOfTheLastRelease)
                        bare.send_multipart([first, REHELLO_OF_THE_LAST_RELEASE])
                        again, raw = await asyncio.to_thread(bare.recv_multipart)
                        assert again == first
                    said = msgspec.msgpack.decode(raw[1:], type=HelloOfTheLastRelease)
                    assert (raw[0], said.protocol, said.node_id, said.incarnation, said.mac) == (2, 1, "ana", 5, b"")
                    welcome = WelcomeOfTheLastRelease(1, "cast", "ben", 8, b"")
                    bare.send_multipart([first, b"\3" + msgspec.msgpack.encode(welcome)])
                await ana.hears(LinkUp(BEN, 8, ""))
                assert ana.transport.send(BEN, Channel.CTL, b"hello")
                assert (await asyncio.to_thread(ctl.recv_multipart))[1] == b"\1\1\0\0\0hello"
            assert ana.transport.counters == ({"older_protocol": 2} if protocol == 2 else {})

    story()


@played
async def test_who_reads_no_protocol_is_not_asked_for_ever() -> None:
    """A listener says REHELLO to everything. Ana says two greetings, hangs up, and dials anew after a pause."""
    with stage() as s:
        base = free_base()
        ana = s.node("ana")
        with _bare(zmq.ROUTER, base=base, bound=True) as bare:
            ana.transport.dial(BEN, f"127.0.0.1:{base}")
            said = []
            for _ in range(4):
                routing_id, raw = await asyncio.to_thread(bare.recv_multipart)
                said.append((routing_id, raw[2]))
                bare.send_multipart([routing_id, b"\5"])
        first, second = said[0][0], said[2][0]
        assert said == [(first, 2), (first, 1), (second, 2), (second, 1)]
        assert first != second
        assert ana.events == []


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_a_mesh_of_two_releases_is_one_mesh(secret: bytes | None) -> None:
    """Ana and Eva are of this release, Ben and Leo of the last one. All are linked with all; every pair exchanges
    messages both ways on both channels, and gossip. Who has a mark is known by it."""

    @played
    async def story() -> None:
        with stage() as s:
            spoken = {"ana": 2, "ben": 1, "eva": 2, "leo": 1}
            cast = [s.node(name, secret=secret, mark=f"m-{name}", protocol=p) for name, p in spoken.items()]
            s.admit(4, *cast)
            pairs = list(itertools.permutations(cast, 2))
            for one, other in pairs:
                both_new = spoken[one.name] == spoken[other.name] == 2
                await one.hears(LinkUp(other.name, 1, other.member.mark if both_new else ""))
            for (one, other), channel in itertools.product(pairs, (Channel.CTL, Channel.DATA)):
                assert one.transport.send(other.name, channel, f"{one.name} to {other.name}, {channel}".encode())
            for one in cast:
                one.transport.publish(one.name.encode())
            for (one, other), channel in itertools.product(pairs, (Channel.CTL, Channel.DATA)):
                await other.hears(PeerMessage(one.name, f"{one.name} to {other.name}, {channel}".encode()))
                await other.hears(GossipReceived(one.name.encode()))
            for one in cast:
                assert one.told(LinkDown) == []
                assert len(one.told(PeerMessage)) == 6
                inbound = one.transport._listeners[Channel.CTL]._nodes
                protocols = {peer: found.hello.protocol for peer, found in inbound.items()}
                assert protocols == {peer: min(spoken[peer], spoken[one.name]) for peer in protocols}
                assert len(protocols) == 3

    story()


@played
async def test_a_mesh_is_upgraded_node_by_node_and_back() -> None:
    """Ben runs the last release, is restarted with this one, and with the last one again. Ana's link to him follows
    each time, in the latest protocol both speak; nobody else is disturbed."""
    with stage() as s:
        ana, eva = (s.node(name, mark=f"m-{name}") for name in ("ana", "eva"))
        base = free_base()
        for incarnation, protocol in ((1, 1), (2, 2), (3, 1)):
            ben = s.node("ben", base=base, incarnation=incarnation, mark="m-ben", protocol=protocol)
            s.admit(4, ana, ben, eva)
            await ana.hears(LinkUp(BEN, incarnation, "m-ben" if protocol == 2 else ""))
            await ben.hears(LinkUp(ANA, 1, "m-ana" if protocol == 2 else ""))
            assert ben.transport.send(ANA, Channel.DATA, b"from %d" % incarnation)
            assert ana.transport.send(BEN, Channel.DATA, b"to %d" % incarnation)
            await ana.hears(PeerMessage(BEN, b"from %d" % incarnation))
            await ben.hears(PeerMessage(ANA, b"to %d" % incarnation))
            ben.transport.close()
            await ana.hears(LinkDown(BEN), times=incarnation)
        assert LinkDown(EVA) not in ana.events


@pytest.mark.parametrize(("node", "client"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_clients_of_either_release_are_served_by_nodes_of_either(node: int, client: int) -> None:
    """Four pairs; each comes up and speaks."""

    @played
    async def story() -> None:
        with stage() as s:
            ana = s.node("ana", protocol=node, secret=SECRET)
            cli = s.client(ana.address, protocol=client, secret=SECRET)
            await s.sees(lambda: cli.ups)
            assert cli.link.send(b"question")
            await s.sees(lambda: ana.events)
            assert cli.link.counters == ({"older_protocol": 1} if (node, client) == (1, 2) else {})

    story()


@played
async def test_a_stranger_of_the_last_release_is_refused_in_words_and_does_not_knock() -> None:
    """Ben is of the last release and not in the roll. He reads a sentence; Ana's core is not asked to take him in,
    since nobody can say which log he keeps."""
    with stage() as s:
        ana, ben = s.node("ana", mark="m-ana"), s.node("ben", protocol=1)
        ana.transport.admit(roll(4, ana), ana.transport._around.notary.since)
        ben.dial(ana)
        await ben.counts("refused_by_peer")
        assert (ana.events, ben.events) == ([], [])
