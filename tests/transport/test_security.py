"""Who gets in: nobody without the secret, and nobody by accident."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq
from zmq.utils import z85

from mesh.effects import Channel
from mesh.events import LinkUp
from mesh.transport import TransportRefused, curve
from mesh.transport.curve import ZAP_DOMAIN, ZapResponder, derive
from mesh.transport.tally import Tally
from tests.transport.stage import ANA, BEN, SECRET, Player, played, stage

OTHER = b"another secret of another mesh"


def test_the_same_secret_gives_the_same_keys_and_another_others() -> None:
    """Keys are made from the secret alone: a restart has them again. No two of the values are alike."""
    keys, again, other = derive(SECRET), derive(SECRET), derive(OTHER)
    assert keys == again
    assert keys.public == zmq.curve_public(keys.private)
    values = {keys.public, keys.private, keys.hello, other.public, other.private, other.hello}
    assert len(values) == 6
    assert z85.decode(keys.private) not in (SECRET, keys.hello)
    assert "private" not in repr(keys)
    assert keys.private.decode() not in repr(keys)


def test_a_short_secret_and_a_library_without_curve_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifteen bytes are too few, sixteen are enough; without CURVE no secret is accepted."""
    with pytest.raises(TransportRefused, match="15 bytes"):
        derive(b"x" * 15)
    derive(b"x" * 16)
    monkeypatch.setattr(curve.zmq, "has", lambda capability: False)  # type: ignore[attr-defined]
    with pytest.raises(TransportRefused, match="no CURVE"):
        derive(b"x" * 16)


@pytest.mark.parametrize(("anas", "bens"), [(SECRET, OTHER), (SECRET, None), (None, SECRET)])
def test_without_the_same_secret_there_is_no_link(anas: bytes | None, bens: bytes | None) -> None:
    """Ana and Ben dial each other with different secrets, or one has none. Both ends count it, nobody is told of a
    link, no gossip comes through; and a third who has Ana's secret gets in all the while."""

    @played
    async def story() -> None:
        with stage() as s:
            ana, ben = s.node("ana", secret=anas), s.node("ben", secret=bens)
            eva = s.node("eva", secret=anas)
            ana.dial(ben)
            ben.dial(ana)
            await s.sees(lambda: _denied(ana) >= 1 and _denied(ben) >= 1)
            ben.transport.publish(b"rumour")
            eva.lets_in(ANA)
            ana.dial(eva)
            await ana.hears(LinkUp(eva.name, 1))
            assert [event for event in ana.events if event != LinkUp(eva.name, 1)] == []
            assert ben.events == []
            assert not ana.transport.send(BEN, Channel.CTL, b"hello?")

    story()


def _denied(player: Player) -> int:
    counters = player.transport.counters
    return sum(counters.get(kind, 0) for kind in ("handshake_failed", "unauthenticated", "no_welcome"))


@contextmanager
def _raw(kind: int, endpoint: str, *, mine: bytes | None = None, theirs: bytes | None = None) -> Iterator[int]:
    """A bare socket that tries to connect. Yields how its handshake ended, a zmq.EVENT_ number; 0: not within 2 s."""
    with zmq.Context() as context:
        socket = context.socket(kind)
        socket.linger = 0
        if mine is not None:
            socket.curve_secretkey = mine
            socket.curve_publickey = zmq.curve_public(mine)
            socket.curve_serverkey = theirs
        monitor = socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        )
        socket.connect(endpoint)
        try:
            yield int.from_bytes(monitor.recv_multipart()[0][:2], "little") if monitor.poll(2_000) else 0
        finally:
            socket.disable_monitor()
            monitor.close(0)
            socket.close(0)


def _ending(kind: int, endpoint: str, mine: bytes | None = None, theirs: bytes | None = None) -> int:
    with _raw(kind, endpoint, mine=mine, theirs=theirs) as ended:
        return ended


@played
async def test_who_knows_the_public_key_but_not_the_secret_is_denied() -> None:
    """The mesh's public key leaked. On all four ports a stranger with a key pair of his own is denied by the judge and
    counted; with the mesh's own pair the same socket gets through."""
    with stage() as s:
        ana = s.node("ana", secret=SECRET)
        public, private = derive(SECRET).public, derive(SECRET).private
        _, stranger = zmq.curve_keypair()
        for channel in Channel:
            kind = zmq.SUB if channel is Channel.GOSSIP else zmq.DEALER
            endpoint = f"tcp://127.0.0.1:{ana.base + channel}"
            assert await asyncio.to_thread(_ending, kind, endpoint, stranger, public) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
            assert ana.transport.counters["unauthenticated"] == channel + 1
            assert await asyncio.to_thread(_ending, kind, endpoint, private, public) == zmq.EVENT_HANDSHAKE_SUCCEEDED


async def _endings(ana: Player, mine: bytes | None, theirs: bytes | None) -> list[int]:
    """How a handshake ends on each of the four ports, tried at once."""
    return await asyncio.gather(
        *(
            asyncio.to_thread(
                _ending,
                zmq.SUB if channel is Channel.GOSSIP else zmq.DEALER,
                f"tcp://127.0.0.1:{ana.base + channel}",
                mine,
                theirs,
            )
            for channel in Channel
        )
    )


@played
async def test_plain_and_wrongly_keyed_sockets_never_finish_a_handshake() -> None:
    """No mechanism at all, or the wrong server key: no handshake succeeds on any port."""
    with stage() as s:
        ana = s.node("ana", secret=SECRET)
        wrong, stranger = zmq.curve_keypair()
        plain, wrongly = await asyncio.gather(_endings(ana, None, None), _endings(ana, stranger, wrong))
        assert zmq.EVENT_HANDSHAKE_SUCCEEDED not in plain + wrongly
        assert ana.transport.counters["handshake_failed"] >= 8


@played
async def test_without_a_judge_nobody_gets_in() -> None:
    """The judge's socket is gone (a bug, say). Even the mesh's own key is not let in then: closed, not open."""
    with stage() as s:
        ana = s.node("ana", secret=SECRET)
        keys = derive(SECRET)
        assert await _endings(ana, keys.private, keys.public) == [zmq.EVENT_HANDSHAKE_SUCCEEDED] * 4
        judge = ana.transport._judge
        assert judge is not None
        ana.transport._around.pump.unwatch(judge)
        judge.socket.close(0)
        ana.transport._judge = None
        assert zmq.EVENT_HANDSHAKE_SUCCEEDED not in await _endings(ana, keys.private, keys.public)


def test_the_judge_says_no_to_whatever_is_not_exactly_right() -> None:
    """Every field of the question matters, a malformed question is answered too, and an answer names its request."""
    keys = derive(SECRET)
    good = [b"1.0", b"7", ZAP_DOMAIN, b"127.0.0.1", b"", b"CURVE", z85.decode(keys.public)]
    questions = {
        "good": good,
        "version": [b"2.0", *good[1:]],
        "domain": [*good[:2], b"", *good[3:]],
        "mechanism": [*good[:5], b"NULL"],
        "null with key": [*good[:5], b"NULL", good[6]],
        "key": [*good[:6], z85.decode(derive(OTHER).public)],
        "no key": [*good[:6], b""],
        "short": good[:2],
        "nothing": [b""],
        "more": [*good, b"more"],
    }
    with zmq.Context() as context, context.socket(zmq.REP) as rep, context.socket(zmq.REQ) as req:
        tally = Tally()
        judge = ZapResponder(rep, keys, tally)
        req.connect(curve.ZAP_ENDPOINT)
        answers = {}
        for name, question in questions.items():
            req.send_multipart(question)
            assert rep.poll(2_000)
            assert not judge.drain(8)
            answers[name] = req.recv_multipart()
        assert answers.pop("good") == [b"1.0", b"7", b"200", b"OK", b"", b""]
        assert {name: answer[2] for name, answer in answers.items()} == dict.fromkeys(answers, b"400")
        assert answers["key"][1] == b"7"
        assert tally.counters == {"unauthenticated": len(answers)}


def test_a_judge_that_fails_says_no_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something breaks inside one judgement. That one is refused; the next is judged as usual."""
    keys = derive(SECRET)
    good = [b"1.0", b"7", ZAP_DOMAIN, b"127.0.0.1", b"", b"CURVE", z85.decode(keys.public)]
    with zmq.Context() as context, context.socket(zmq.REP) as rep, context.socket(zmq.REQ) as req:
        tally = Tally()
        judge = ZapResponder(rep, keys, tally)
        req.connect(curve.ZAP_ENDPOINT)
        codes = []
        for broken in (True, False):
            with monkeypatch.context() as patch:
                if broken:
                    patch.setattr(curve.hmac, "compare_digest", _breaks)  # type: ignore[attr-defined]
                req.send_multipart(good)
                assert rep.poll(2_000)
                judge.drain(8)
                codes.append(req.recv_multipart()[2])
        assert codes == [b"500", b"200"]
        assert tally.counters == {"zap_failed": 1, "unauthenticated": 1}


def _breaks(*_: object) -> bool:
    raise RuntimeError("broken")


@played
async def test_a_context_has_one_judge() -> None:
    """Two transports in one process have a context each, and so do not answer each other's questions."""
    with stage() as s:
        ana, ben = s.node("ana", secret=SECRET), s.node("ben", secret=OTHER)
        eva, leo = s.node("eva", secret=SECRET), s.node("leo", secret=OTHER)
        for one, other in ((ana, eva), (ben, leo)):
            other.lets_in(one.name)
            one.dial(other)
            await one.hears(LinkUp(other.name, 1))
