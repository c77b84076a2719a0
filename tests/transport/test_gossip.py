"""Publications reach whoever dialled, newcomers hear the last of them at once, and a lost path is found again."""

import asyncio

import pytest
import zmq

from mesh.effects import Channel
from mesh.events import Event, GossipReceived
from mesh.transport.curve import ZAP_ENDPOINT, derive
from mesh.transport.sockets import BYTES_MAX
from tests.transport.stage import ANA, BEN, SECRET, free_base, has_v6, played, stage, understudy


def _heard(events: list[Event]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, GossipReceived)]


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_all_who_dialled_hear_it(secret: bytes | None) -> None:
    """Ben and Eva listen to Ana; Ana listens to nobody and so does not hear herself."""

    @played
    async def story() -> None:
        with stage() as s:
            ana, ben, eva = (s.node(name, secret=secret) for name in ("ana", "ben", "eva"))
            ana.transport.publish(b"first")
            ben.dial(ana)
            eva.dial(ana)
            await ben.hears(GossipReceived(b"first"))
            await eva.hears(GossipReceived(b"first"))
            ana.transport.publish(b"second")
            await ben.hears(GossipReceived(b"second"))
            await eva.hears(GossipReceived(b"second"))
            assert _heard(ana.events) == []

    story()


@played
async def test_a_newcomer_hears_the_last_words_though_others_listen_already() -> None:
    """Ana spoke long ago and Ben has heard it. When Eva begins to listen, the last words (not those before) are
    repeated."""
    with stage() as s:
        ana, ben, eva = (s.node(name) for name in ("ana", "ben", "eva"))
        ana.transport.publish(b"old")
        ana.transport.publish(b"last")
        ben.dial(ana)
        await ben.hears(GossipReceived(b"last"))
        eva.dial(ana)
        await eva.hears(GossipReceived(b"last"))
        assert set(_heard(ben.events) + _heard(eva.events)) == {b"last"}


@played
async def test_a_silent_node_repeats_nothing() -> None:
    """Ana never spoke. Ben's subscription makes her say nothing; her first words reach him."""
    with stage() as s:
        ana, ben = await s.pair()
        ana.transport.publish(b"now")
        await ben.hears(GossipReceived(b"now"))
        assert set(_heard(ben.events)) == {b"now"}


@played
async def test_undialled_means_unheard() -> None:
    """Ben undials Ana and dials her again: in between he hears nothing of her, afterwards he does."""
    with stage() as s:
        ana, ben = s.node("ana"), s.node("ben")
        ana.lets_in(BEN)
        ana.transport.publish(b"one")
        ben.dial(ana)
        await ben.hears(GossipReceived(b"one"))
        ben.transport.undial(ANA)
        ana.transport.publish(b"two")
        ben.dial(ana)
        ana.transport.publish(b"three")
        await ben.hears(GossipReceived(b"three"))
        assert b"two" not in _heard(ben.events)


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_a_restarted_listener_hears_again_and_a_restarted_speaker_is_heard(secret: bytes | None) -> None:
    """Ana's process ends and begins anew on the same ports: Ben, who never moved, hears the new one."""

    @played
    async def story() -> None:
        with stage() as s:
            ben = s.node("ben", secret=secret)
            ana = s.node("ana", secret=secret)
            ana.transport.publish(b"first life")
            ben.dial(ana)
            await ben.hears(GossipReceived(b"first life"))
            ana.transport.close()
            again = s.node("ana", base=ana.base, incarnation=2, secret=secret)
            again.transport.publish(b"second life")
            await ben.hears(GossipReceived(b"second life"))

    story()


@pytest.mark.parametrize("secret", [None, b"the secret of another mesh"], ids=["open", "other secret"])
def test_a_path_that_led_elsewhere_is_tried_again(secret: bytes | None) -> None:
    """On Ana's address there is first a mesh without a secret, or with another. Ben gets no handshake there. When the
    right Ana is there, he hears her all the same."""

    @played
    async def story() -> None:
        with stage() as s:
            base = free_base()
            ben = s.node("ben", secret=SECRET)
            async with understudy("ana", base, secret=secret):
                ben.transport.dial(ANA, f"127.0.0.1:{base}")
                await ben.counts("gossip_handshake_failed")
            ana = s.node("ana", base=base, secret=SECRET)
            ana.transport.publish(b"found")
            await ben.hears(GossipReceived(b"found"), within_ms=10_000)

    story()


@played
async def test_a_path_that_was_denied_is_tried_again() -> None:
    """Somebody with Ana's key says no to Ben, after which libzmq never tries again by itself. When Ana is there, he
    hears her all the same."""
    with stage() as s:
        base, keys = free_base(), derive(SECRET)
        ben = s.node("ben", secret=SECRET)
        with zmq.Context() as context, context.socket(zmq.REP) as judge, context.socket(zmq.XPUB) as denying:
            judge.bind(ZAP_ENDPOINT)
            judge.rcvtimeo = 5_000
            denying.curve_server, denying.curve_secretkey, denying.zap_domain = True, keys.private, b"mesh"
            denying.bind(f"tcp://127.0.0.1:{base + Channel.GOSSIP}")
            ben.transport.dial(ANA, f"127.0.0.1:{base}")
            question = await asyncio.to_thread(judge.recv_multipart)
            judge.send_multipart([b"1.0", question[1], b"400", b"no", b"", b""])
            await ben.counts("gossip_handshake_failed")
        ana = s.node("ana", base=base, secret=SECRET)
        ana.transport.publish(b"found")
        await ben.hears(GossipReceived(b"found"), within_ms=10_000)


@played
async def test_too_long_a_publication_stays_here() -> None:
    """The longest arrives; one byte more is counted and not sent."""
    with stage() as s:
        ana, ben = await s.pair()
        longest = b"x" * BYTES_MAX[Channel.GOSSIP]
        ana.transport.publish(longest)
        ana.transport.publish(longest + b"!")
        await ben.hears(GossipReceived(longest))
        assert ana.transport.counters == {"oversize": 1}


@pytest.mark.skipif(not has_v6(), reason="this machine has no IPv6 loopback")
@played
async def test_gossip_between_versions_of_the_internet_protocol() -> None:
    """Ben listens to Ana on v4 and to Eva on v6, with one socket."""
    with stage() as s:
        ben, ana = s.node("ben"), s.node("ana")
        eva = s.node("eva", host="[::1]")
        ben.dial(ana)
        ben.dial(eva)
        for speaker in (ana, eva):
            speaker.transport.publish(speaker.name.encode())
            await ben.hears(GossipReceived(speaker.name.encode()))
