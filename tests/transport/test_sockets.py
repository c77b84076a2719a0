"""Options: read back from every live socket, because one set too late is ignored in silence."""

import ast
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import pytest
import zmq

import mesh.transport
from mesh.effects import Channel
from mesh.events import LinkUp
from mesh.ids import FencingToken, TaskId, Term
from mesh.messages import NodeReport, Stops
from mesh.transport.address import Address
from mesh.transport.curve import ZAP_DOMAIN
from mesh.transport.handshake import HEADER_BYTES
from mesh.transport.sockets import BYTES_MAX, QUEUED_MAX, Monitor, Sockets, send_again
from mesh.transport.zeromq import Transport
from mesh.wire.codec import encode
from tests.transport.stage import BEN, SECRET, played, stage

HERE = Address("127.0.0.1", 20_000)
ON_ALL: dict[int, object] = {
    zmq.LINGER: 0,
    zmq.HANDSHAKE_IVL: 3_000,
    zmq.HEARTBEAT_IVL: 0,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 15,
    zmq.TCP_KEEPALIVE_INTVL: 5,
    zmq.TCP_KEEPALIVE_CNT: 3,
    zmq.SNDTIMEO: 0,
    zmq.RCVTIMEO: 0,
    zmq.IPV6: 0,
}


def _live(transport: Transport) -> Iterator[tuple[str, Channel, "zmq.Socket[bytes]"]]:
    """Every socket of a transport that talks to the network: how it came about, its channel, itself."""
    for channel, listener in transport._listeners.items():
        yield "bound", channel, listener.socket
    assert transport._publisher is not None
    assert transport._subscriber is not None
    yield "bound", Channel.GOSSIP, transport._publisher.socket
    yield "dialled", Channel.GOSSIP, transport._subscriber.socket
    for peer in transport._peers.values():
        for channel, link in peer.links.items():
            yield "dialled", channel, link.socket


def _read(made: "zmq.Socket[bytes]", options: Iterable[int]) -> dict[int, object]:
    return {option: made.get(option) for option in options}


@played
async def test_every_live_socket_has_its_options() -> None:
    """Ana and Ben are linked on all channels, under CURVE. Each of Ana's sockets is asked what it has."""
    with stage() as s:
        ana, ben = await s.pair(secret=SECRET)
        ana.transport.send(BEN, Channel.BULK, b"opens the link")
        kinds = []
        for how, channel, made in _live(ana.transport):
            kinds.append((how, channel, made.type))
            expected: dict[int, object] = {
                **ON_ALL,
                zmq.SNDHWM: QUEUED_MAX[channel],
                zmq.RCVHWM: QUEUED_MAX[channel],
                zmq.MAXMSGSIZE: BYTES_MAX[channel] + HEADER_BYTES,
                zmq.AFFINITY: 2 if channel is Channel.BULK else 1,
                zmq.MECHANISM: zmq.CURVE,
                zmq.CURVE_SERVER: int(how == "bound"),
            }
            if how == "bound":
                expected |= {zmq.ZAP_DOMAIN: ZAP_DOMAIN, zmq.ZAP_ENFORCE_DOMAIN: 1}
                expected |= {zmq.BACKLOG: 128 if channel is Channel.BULK else 4_096}
            else:
                expected |= {zmq.IMMEDIATE: 1, zmq.CONNECT_TIMEOUT: 2_000 if channel is Channel.BULK else 1_000}
            assert _read(made, expected) == expected, (how, channel)
        assert sorted(kinds) == [
            ("bound", Channel.CTL, zmq.ROUTER),
            ("bound", Channel.DATA, zmq.ROUTER),
            ("bound", Channel.GOSSIP, zmq.XPUB),
            ("bound", Channel.BULK, zmq.ROUTER),
            ("dialled", Channel.CTL, zmq.DEALER),
            ("dialled", Channel.DATA, zmq.DEALER),
            ("dialled", Channel.GOSSIP, zmq.SUB),
            ("dialled", Channel.BULK, zmq.DEALER),
        ]
        assert ben.events[0] == LinkUp(ana.name, 1)


def test_in_the_open_no_socket_pretends_to_be_safe() -> None:
    """Without keys the mechanism is NULL and no domain is set."""
    sockets = Sockets(None, Random(1))
    try:
        for channel in Channel:
            for made in (sockets.listener(channel, HERE), sockets.dialler(channel, HERE)):
                with made:
                    assert made.get(zmq.MECHANISM) == zmq.NULL
                    assert made.get(zmq.ZAP_DOMAIN) == b""
    finally:
        sockets.close()


def test_redialling_is_jittered_and_bulk_never_redials_by_itself() -> None:
    """The first pause is drawn for each socket, as libzmq's own growth of it has no jitter."""
    sockets = Sockets(None, Random(1))
    try:
        quick = [sockets.dialler(Channel.CTL, HERE) for _ in range(20)]
        patient = [sockets.dialler(Channel.DATA, HERE, patient=True) for _ in range(20)]
        pauses = [int(made.get(zmq.RECONNECT_IVL)) for made in quick]
        assert len(set(pauses)) > 10
        assert all(50 <= pause <= 150 for pause in pauses)
        assert {made.get(zmq.RECONNECT_IVL_MAX) for made in quick} == {0}
        assert all(100 <= int(made.get(zmq.RECONNECT_IVL)) <= 500 for made in patient)
        assert {made.get(zmq.RECONNECT_IVL_MAX) for made in patient} == {1_000}
        with sockets.dialler(Channel.BULK, HERE) as bulk, sockets.dialler(Channel.CTL, Address("::1", 20_000)) as v6:
            assert bulk.get(zmq.RECONNECT_IVL) == -1
            assert v6.get(zmq.IPV6) == 1
    finally:
        sockets.close()


def test_options_set_after_connecting_come_too_late() -> None:
    """Why there is a factory: a bound set after the connection exists does not hold, one set before does."""
    sent = {}
    for late in (False, True):
        with zmq.Context() as context, context.socket(zmq.PULL) as pull, context.socket(zmq.PUSH) as push:
            push.linger = 0
            if not late:
                push.sndhwm = pull.rcvhwm = 10
            pull.bind("inproc://late")
            push.connect("inproc://late")
            if late:
                push.sndhwm = pull.rcvhwm = 10
            sent[late] = sum(1 for _ in range(500) if _took(push))
    assert sent == {False: 20, True: 500}


def _took(push: "zmq.Socket[bytes]", data: bytes = b"") -> bool:
    try:
        push.send(data, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True


def test_an_unread_monitor_stops_nothing() -> None:
    """5,000 events nobody reads; the socket serves on. With a reading end of ordinary length it would stand still."""
    sockets = Sockets(None, Random(1))
    try:
        made = sockets.listener(Channel.CTL, HERE)
        monitor = Monitor(sockets, made, zmq.EVENT_ALL)
        assert monitor.socket.get(zmq.RCVHWM) == 0
        port = made.bind_to_random_port("tcp://127.0.0.1", 20_000, 29_999)
        for _ in range(1_700):  # Three events each.
            socket.create_connection(("127.0.0.1", port)).close()
        dealer = sockets.dialler(Channel.CTL, HERE)
        dealer.set(zmq.SNDTIMEO, 3_000)
        dealer.connect(f"tcp://127.0.0.1:{port}")
        dealer.send(b"alive?")
        assert made.poll(3_000)
        assert made.recv_multipart()[1] == b"alive?"
        monitor.close()
    finally:
        sockets.close()


def test_a_queue_is_not_called_full_before_libzmq_has_looked_again() -> None:
    """Bursts as long as the queue, each taken off at the other end at once. Now and then the next send is refused all
    the same, because libzmq has not looked; asking again always succeeds."""
    sockets = Sockets(None, Random(1))
    try:
        with sockets.listener(Channel.BULK, HERE) as router, sockets.dialler(Channel.BULK, HERE) as dealer:
            port = router.bind_to_random_port("tcp://127.0.0.1", 20_000, 29_999)
            dealer.connect(f"tcp://127.0.0.1:{port}")
            assert dealer.poll(3_000, zmq.POLLOUT)
            for _ in range(300):
                sent = 0
                while _took(dealer):
                    sent += 1
                for _ in range(sent):
                    assert router.poll(3_000)
                    router.recv_multipart()
                assert _took(dealer) or send_again(dealer, b"")
                assert router.poll(3_000)
                router.recv_multipart()
    finally:
        sockets.close()


BANNED = {
    "HEARTBEAT": "a full pipe makes it kill a healthy connection, and in 4.3.5 the process",
    "CONNECT_ROUTING_ID": "a collision aborts the process",
    "ROUTING_ID": "a second connection with the same id is black-holed",
    "IDENTITY": "the same by its older name",
    "PROBE_ROUTER": "delivers an empty message",
    "CONFLATE": "keeps the last frame only",
    "TCP_MAXRT": "can kill a peer whose window is zero",
    "get_monitor_socket": "its reading end is bounded, and a full one freezes the process",
    "recv_pyobj": "is pickle",
    "send_pyobj": "is pickle",
    "pickle": "runs whatever a stranger sends",
    **dict.fromkeys("SERVER CLIENT RADIO DISH GATHER SCATTER DGRAM PEER CHANNEL".split(), "aborts the process"),
}
"""Names that must not be used of zmq, and why. HEARTBEAT_IVL is set once: to 0."""


def _names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(value=ast.Name(id="zmq"), attr=name):
                yield name
            case ast.Attribute(attr=name) if name.endswith(("_pyobj", "_socket")):
                yield name
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module)):
                yield module


SOURCES = sorted(Path(mesh.transport.__path__[0]).glob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_what_is_known_to_hurt_is_not_used(path: Path) -> None:
    """No draft sockets, no explicit routing ids, no monitors of ordinary length, no zmq.asyncio, no pickle."""
    used = list(_names(path))
    assert [name for name in used if name in BANNED or name.startswith("zmq.asyncio")] == []
    if path.name != "sockets.py":
        makes = {"HEARTBEAT_IVL", "ROUTER", "DEALER", "SUB", "XPUB", "REP", "Context", "LINGER", "ROUTER_HANDOVER"}
        assert makes.isdisjoint(used), "sockets are made in sockets.py only"


def test_the_source_check_can_see() -> None:
    """It finds each banned thing where it is."""
    here = set(_names(Path(__file__)))
    assert {"HEARTBEAT_IVL", "ROUTER", "zmq"} <= here


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_s0_07_all_that_a_node_of_4000_slots_holds_fits_into_one_message() -> None:
    """A report of what runs there, and the word that all of it is over: with the longest ids, of the widest letters."""
    leases = [(TaskId(f"{number:04}" + "\U0001f600" * 196), FencingToken(1 << 40)) for number in range(4_000)]
    report = NodeReport(Term(1 << 40), 1 << 40, 4_000, ("code",), leases, leases)
    assert 6_000_000 < len(encode(report)) <= BYTES_MAX[Channel.DATA]
    assert 3_000_000 < len(encode(Stops(Term(1 << 40), leases))) <= BYTES_MAX[Channel.DATA]
