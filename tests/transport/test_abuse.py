"""Rubbish on every port: dropped, counted, and the node serves its friends as if nothing were."""

import asyncio
import contextlib
import itertools
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from mesh.config import PROTOCOL
from mesh.effects import Channel
from mesh.events import LinkDown, PeerMessage
from mesh.transport.curve import derive
from mesh.transport.handshake import HELLO, MESSAGE, REHELLO_FRAME, WELCOME, Identity, Notary, header
from mesh.transport.sockets import BYTES_MAX
from tests.transport.stage import ANA, BEN, CLUSTER, EVA, SECRET, Player, Stage, played, stage

GREETING_V3 = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL" + b"\0" * 48


async def _still_serves(s: Stage, ana: Player, ben: Player, mark: bytes) -> None:
    assert ana.transport.send(BEN, Channel.CTL, mark)
    assert ben.transport.send(ANA, Channel.DATA, mark)
    await ben.hears(PeerMessage(ANA, mark))
    await ana.hears(PeerMessage(BEN, mark))
    ana.transport.publish(mark)
    await s.sees(lambda: any(getattr(event, "data", b"") == mark for event in ben.events))
    assert LinkDown(BEN) not in ana.events
    assert LinkDown(ANA) not in ben.events


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_raw_tcp_garbage_on_every_port(secret: bytes | None) -> None:
    """Web requests, zeros, noise, a torn greeting and silence arrive on all four ports."""

    @played
    async def story() -> None:
        noise = random.Random(7).randbytes(4_096)
        garbage = [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\0" * 4_096,
            noise,
            GREETING_V3[:20],
            GREETING_V3 + noise,
            b"",
        ]
        with stage() as s:
            ana, ben = await s.pair(secret=secret)
            for channel in Channel:
                for rubbish in garbage:
                    with socket.create_connection(("127.0.0.1", ana.base + channel)) as raw:
                        raw.sendall(rubbish)
            await ana.counts("handshake_failed")
            await _still_serves(s, ana, ben, b"after the garbage")

    story()


@contextlib.contextmanager
def _intruder(port: int, kind: int, secret: bytes | None) -> Iterator["zmq.Socket[bytes]"]:
    """A bare socket that passed the transport's handshake and knows no manners."""
    with zmq.Context() as context:
        bare = context.socket(kind)
        bare.linger = 0
        if secret is not None:
            keys = derive(secret)
            bare.curve_secretkey, bare.curve_publickey, bare.curve_serverkey = keys.private, keys.public, keys.public
        bare.connect(f"tcp://127.0.0.1:{port}")
        try:
            yield bare
        finally:
            bare.close(0)


def _frames() -> list[list[bytes]]:
    rng = random.Random(11)
    whole = Notary(Identity(node_id="ben", cluster=CLUSTER, incarnation=1, role="node", secret=None), None).hello(
        Channel.CTL, b"n" * 16, PROTOCOL
    )
    return [
        [b""],
        [b"\0"],
        [bytes((MESSAGE,))],
        [header.pack(MESSAGE, 1) + b"before any greeting"],
        [bytes((HELLO,))],
        [bytes((WELCOME,)) + b"\x95"],
        [REHELLO_FRAME],
        [whole[:-1]],
        [whole + b"!"],
        [bytes((HELLO,)) + b"\xdd\xff\xff\xff\xff"],
        [bytes((HELLO,)) + b"\x91" * 2_000],
        [b"two", b"frames"],
        [b""] * 50,
        *([rng.randbytes(rng.randrange(1, 300))] for _ in range(200)),
    ]


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_garbage_frames_on_every_router(secret: bytes | None) -> None:
    """A socket that speaks ZMTP (and has the key, where there is one) sends frames that are nothing. Each is counted,
    none is delivered, and each sender is told to introduce itself."""

    @played
    async def story() -> None:
        with stage() as s:
            ana, ben = await s.pair(secret=secret)
            expected = len(_frames())
            for channel in (Channel.CTL, Channel.DATA, Channel.BULK):
                before = ana.transport.counters.get("rubbish", 0)
                with _intruder(ana.base + channel, zmq.DEALER, secret) as bare:
                    replies = await asyncio.to_thread(_say_all, bare, _frames())
                assert replies == [[REHELLO_FRAME]] * expected
                assert ana.transport.counters["rubbish"] - before == expected
            assert len(ana.events) == 1
            await _still_serves(s, ana, ben, b"after the frames")

    story()


def _say_all(bare: "zmq.Socket[bytes]", messages: list[list[bytes]]) -> list[list[bytes]]:
    """Send each and wait for what it is answered."""
    bare.rcvtimeo = 5_000
    replies = []
    for message in messages:
        bare.send_multipart(message)
        replies.append(bare.recv_multipart())
    return replies


@played
async def test_garbage_subscriptions() -> None:
    """On the gossip port somebody subscribes to nonsense and sends messages of his own. Counted, and gossip goes on."""
    with stage() as s:
        ana, ben = await s.pair()
        with _intruder(ana.base + Channel.GOSSIP, zmq.XSUB, None) as bare:
            for frames in ([b"\x01nonsense"], [b"\x02no such"], [b"free text"], [b"\x01", b"and more"]):
                bare.send_multipart(frames)
            await ana.counts("rubbish")
            await _still_serves(s, ana, ben, b"after the subscriptions")


@pytest.mark.parametrize("damage", ["gap", "frames", "kind", "torn"])
def test_a_link_that_misbehaves_is_begun_anew(damage: str) -> None:
    """Ana's link to Ben skips a number, sends two frames, an unknown kind or half a header. What it says is not
    delivered; Ben tells it to introduce itself, it does, and the next message arrives."""

    @played
    async def story() -> None:
        with stage() as s:
            ana, ben = await s.pair()
            link = ana.transport._peers[BEN].links[Channel.CTL]
            match damage:
                case "gap":
                    link._sent += 1
                    assert link.send(b"skipped one")
                case "frames":
                    link.socket.send_multipart([header.pack(MESSAGE, 1) + b"a", b"b"])
                case "kind":
                    link.socket.send(b"\x09nonsense")
                case "torn":
                    link.socket.send(header.pack(MESSAGE, 1)[:3])
            await ana.hears(LinkDown(BEN))
            await ana.sees_link_again(s)
            assert ana.transport.counters == {"rehello": 1}
            assert ben.transport.counters == ({"gap": 1} if damage == "gap" else {"rubbish": 1})
            assert ana.transport.send(BEN, Channel.CTL, b"well now")
            await ben.hears(PeerMessage(ANA, b"well now"))
            assert [event for event in ben.events if isinstance(event, PeerMessage)] == [PeerMessage(ANA, b"well now")]

    story()


@pytest.mark.parametrize("damage", ["gap", "frames", "kind"])
def test_a_listener_that_misbehaves_is_dialled_anew(damage: str) -> None:
    """Ben's side of Ana's link skips a number, sends two frames, or something unknown. Ana drops it; a gap and a
    message of several frames end the link, which comes back."""

    @played
    async def story() -> None:
        with stage() as s:
            ana, ben = s.node("ana"), s.node("ben")
            ben.lets_in(ANA)
            ana.dial(ben)
            await s.sees(lambda: ana.events)
            listener = ben.transport._listeners[Channel.CTL]
            inbound = listener._nodes[ANA]
            match damage:
                case "gap":
                    inbound.sent += 1
                    assert ben.transport.send(ANA, Channel.CTL, b"skipped one")
                case "frames":
                    listener.socket.send_multipart([inbound.routing_id, header.pack(MESSAGE, 1) + b"a", b"b"])
                case "kind":
                    listener.socket.send_multipart([inbound.routing_id, b"\x09nonsense"])
            if damage == "kind":
                await ana.counts("rubbish")
                assert LinkDown(BEN) not in ana.events
            else:
                await ana.hears(LinkDown(BEN))
                await ana.sees_link_again(s)
            assert ana.transport.counters == ({"gap": 1} if damage == "gap" else {"rubbish": 1})
            assert not [event for event in ana.events if isinstance(event, PeerMessage)]

    story()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4_096


def _pour(port: int, start: bytes, total: int) -> int:
    """Claim a frame of `total` bytes after `start`, and send it as long as anybody listens. Bytes sent."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port)) as raw, contextlib.suppress(OSError):
        raw.settimeout(2)
        raw.sendall(start)
        raw.recv(64)
        raw.sendall(b"\x06" + struct.pack(">Q", total))
        while sent < total:
            sent += raw.send(b"\0" * min(1 << 20, total - sent))
    return sent


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_an_oversized_frame_is_cut_before_it_is_held(secret: bytes | None) -> None:
    """A stranger announces one frame of 300 MB on each port and begins to send. The connection is cut; memory stays."""

    @played
    async def story() -> None:
        with stage() as s:
            ana, ben = await s.pair(secret=secret)
            start = GREETING_V3 if secret is None else GREETING_V3.replace(b"NULL\0", b"CURVE")
            before = _resident_bytes()
            for channel in Channel:
                sent = await asyncio.to_thread(_pour, ana.base + channel, start, 300 << 20)
                assert sent < 100 << 20
            assert _resident_bytes() - before < 60 << 20
            await _still_serves(s, ana, ben, b"after the flood")

    story()


@played
async def test_an_authenticated_node_that_sends_too_much_is_cut() -> None:
    """Ana's own sender is made to forget the bound. Ben's library cuts the connection, the message is lost, the link
    returns."""
    with stage() as s:
        ana, ben = await s.pair()
        link = ana.transport._peers[BEN].links[Channel.CTL]
        assert link.send(b"x" * (BYTES_MAX[Channel.CTL] + 1))
        await ana.hears(LinkDown(BEN))
        await ana.sees_link_again(s)
        assert ana.transport.send(BEN, Channel.CTL, b"shorter")
        await ben.hears(PeerMessage(ANA, b"shorter"))
        assert [event for event in ben.events if isinstance(event, PeerMessage)] == [PeerMessage(ANA, b"shorter")]


def _knock(ports: Callable[[], int], times: int) -> None:
    for _ in range(times):
        with socket.create_connection(("127.0.0.1", ports())) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("listening", [True, False], ids=["loop runs", "loop blocked"])
def test_a_thousand_knocks_do_not_freeze_anything(listening: bool) -> None:
    """A stranger connects and hangs up 1,000 times a port, also while the loop is not reading its monitors. Serves
    on."""

    @played
    async def story() -> None:
        with stage() as s:
            ana, ben = await s.pair()
            ports = itertools.cycle([ana.base + Channel.CTL, ana.base + Channel.DATA])
            if listening:
                await asyncio.to_thread(_knock, ports.__next__, 2_000)
            else:
                _knock(ports.__next__, 2_500)
            await _still_serves(s, ana, ben, b"after the knocks")

    story()


@played
async def test_a_node_that_lies_about_its_routing_id_gains_nothing() -> None:
    """Eva's connection carries, by its own choice, the routing id libzmq gave to Ben's. Ben keeps his link."""
    with stage() as s:
        ana, ben = await s.pair()
        victim = ana.transport._listeners[Channel.CTL]._nodes[BEN].routing_id
        with zmq.Context() as context, context.socket(zmq.DEALER) as thief:
            thief.linger = 0
            thief.routing_id = b"\x01thief" if victim[:1] == b"\0" else victim
            thief.connect(f"tcp://127.0.0.1:{ana.base}")
            thief.send(header.pack(MESSAGE, 1) + b"I am Ben")
            await ana.counts("rubbish")
            await _still_serves(s, ana, ben, b"still Ben")
        assert PeerMessage(BEN, b"I am Ben") not in ana.events


@played
async def test_a_foreign_service_on_the_port_gives_way_to_the_node() -> None:
    """Ben's ports are held by something that accepts and says nothing, or nonsense. Once Ben has them, the link is
    there."""
    with stage() as s:
        ana = s.node("ana")
        ben = s.node("ben", bound=False)
        ben.lets_in(ANA)

        async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await reader.read(64)
            writer.close()

        foreign = [await asyncio.start_server(nonsense, "127.0.0.1", ben.base + channel) for channel in Channel]
        ana.dial(ben)
        await s.sees(lambda: {"disconnected", "handshake_failed", "no_welcome"} & set(ana.transport.counters))
        for server in foreign:
            server.close()
            await server.wait_closed()
        ben.transport.bind()
        await s.sees(lambda: ana.events, within_ms=10_000)
        assert ana.transport.send(BEN, Channel.CTL, b"at last")
        await ben.hears(PeerMessage(ANA, b"at last"))


@played
async def test_a_service_that_never_says_welcome_is_dialled_again() -> None:
    """A ROUTER of somebody else's takes the HELLO and is silent. After a second Ana gives that up, counts it and
    dials anew."""
    with stage() as s, zmq.Context() as context:
        ana = s.node("ana")
        ben = s.node("ben", bound=False)
        with context.socket(zmq.ROUTER) as ctl, context.socket(zmq.ROUTER) as data:
            for silent, channel in ((ctl, Channel.CTL), (data, Channel.DATA)):
                silent.linger = 0
                silent.bind(f"tcp://127.0.0.1:{ben.base + channel}")
            ana.dial(ben)
            await ana.counts("no_welcome")
            hellos = await asyncio.to_thread(lambda: [ctl.recv_multipart() for _ in range(2)])
        assert hellos[0][0] != hellos[1][0]
        assert [frames[1][0] for frames in hellos] == [HELLO, HELLO]
        assert hellos[0][1] != hellos[1][1]
        assert ana.events == []


@played
async def test_the_cast_is_who_it_says() -> None:
    """Eva dials Ana under Ben's name with a HELLO of her own making, unsigned. In a mesh with a secret it is refused,
    even though her connection has the key."""
    with stage() as s:
        ana, _ = await s.pair(secret=SECRET)
        forged = Notary(Identity(node_id="ben", cluster=CLUSTER, incarnation=9, role="node", secret=None), None)
        with _intruder(ana.base + Channel.CTL, zmq.DEALER, SECRET) as bare:
            answers = await asyncio.to_thread(_say_all, bare, [[forged.hello(Channel.CTL, b"n" * 16, PROTOCOL)]])
        assert b"not signed with this mesh's secret" in answers[0][0]
        assert ana.transport.counters == {"hello_refused": 1}
        assert EVA not in ana.transport._peers
