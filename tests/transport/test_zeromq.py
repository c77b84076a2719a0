"""Two nodes and more, talking: links come up, carry messages both ways, break and come back."""

import asyncio
import contextlib
import os
import resource
import signal
import time

import pytest

from mesh.effects import Channel
from mesh.events import GossipReceived, LinkDown, LinkUp, PeerMessage
from mesh.ids import NodeId
from mesh.transport import NODE, Identity, Transport, TransportRefused
from mesh.transport.sockets import BYTES_MAX
from tests.transport.stage import (
    ANA,
    BEN,
    EVA,
    SECRET,
    descriptors,
    free_base,
    played,
    stage,
    threads,
    understudy,
)


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_both_ends_learn_who_the_other_is(secret: bytes | None) -> None:
    """Ana and Ben dial each other. Each is told once that the link is up, and which incarnation it met."""

    @played
    async def story() -> None:
        with stage() as s:
            ana, ben = s.node("ana", incarnation=3, secret=secret), s.node("ben", incarnation=7, secret=secret)
            ana.dial(ben)
            ben.dial(ana)
            await ana.hears(LinkUp(BEN, 7))
            await ben.hears(LinkUp(ANA, 3))
            assert ana.events == [LinkUp(BEN, 7)]
            assert ben.events == [LinkUp(ANA, 3)]
            assert (ana.transport.counters, ben.transport.counters) == ({}, {})

    story()


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_messages_go_both_ways_on_both_channels(secret: bytes | None) -> None:
    """Each says something on ctl and on data; the other hears exactly that, and from whom."""

    @played
    async def story() -> None:
        with stage() as s:
            ana, ben = await s.pair(secret=secret)
            for channel in (Channel.CTL, Channel.DATA):
                assert ana.transport.send(BEN, channel, b"from ana on %d" % channel)
                assert ben.transport.send(ANA, channel, b"from ben on %d" % channel)
            for channel in (Channel.CTL, Channel.DATA):
                await ben.hears(PeerMessage(ANA, b"from ana on %d" % channel))
                await ana.hears(PeerMessage(BEN, b"from ben on %d" % channel))

    story()


@played
async def test_order_is_kept_and_a_turn_ends_once_for_many() -> None:
    """Ana sends 900 numbers at once. Ben hears them in order, in far fewer turns than messages."""
    with stage() as s:
        ana, ben = await s.pair()
        ben.turns, ben.events = 0, []
        for i in range(900):
            assert ana.transport.send(BEN, Channel.DATA, b"%d" % i)
        await ben.hears(PeerMessage(ANA, b"899"))
        assert ben.events == [PeerMessage(ANA, b"%d" % i) for i in range(900)]
        await s.sees(lambda: ben.turns > 0)
        assert ben.turns <= 100


@played
async def test_who_is_not_dialled_back_answers_on_the_same_link() -> None:
    """Only Ana dials; Ben merely admits her. His answers travel back on her link."""
    with stage() as s:
        ana, ben = s.node("ana"), s.node("ben")
        ben.lets_in(ANA)
        ana.dial(ben)
        await ana.hears(LinkUp(BEN, 1))
        assert ana.transport.send(BEN, Channel.DATA, b"ping")
        await ben.hears(PeerMessage(ANA, b"ping"))
        assert ben.transport.send(ANA, Channel.DATA, b"pong")
        await ana.hears(PeerMessage(BEN, b"pong"))
        assert ben.events == [PeerMessage(ANA, b"ping")]


@played
async def test_who_is_admitted_no_longer_is_cut() -> None:
    """Ben admits Ana, then only Eva. Ana's link breaks, her next greetings are refused, and he cannot send to her."""
    with stage() as s:
        ana, ben = s.node("ana"), s.node("ben")
        ben.lets_in(ANA)
        ana.dial(ben)
        await ana.hears(LinkUp(BEN, 1))
        ben.lets_in(EVA)
        assert not ben.transport.send(ANA, Channel.CTL, b"cut")
        await ana.hears(LinkDown(BEN))
        await ana.counts("refused_by_peer")


@played
async def test_nobody_is_an_answer_too() -> None:
    """Ana sends to a node she has no link with: False at once, counted, nothing else happens."""
    with stage() as s:
        ana = s.node("ana")
        assert not ana.transport.send(BEN, Channel.CTL, b"anybody?")
        assert not ana.transport.reply(7, b"anybody?")  # type: ignore[arg-type]
        assert ana.transport.counters == {"no_link": 2}


@played
async def test_bulk_is_dialled_when_it_is_needed() -> None:
    """The first bulk message opens the link and is lost; later ones arrive, and the answer takes the same link."""
    with stage() as s:
        ana, ben = await s.pair()
        assert not ana.transport.send(BEN, Channel.BULK, b"opens the link")
        async with asyncio.timeout(5):
            while not ana.transport.send(BEN, Channel.BULK, b"chunk"):
                await asyncio.sleep(0)
        await ben.hears(PeerMessage(ANA, b"chunk"))
        assert ben.transport.send(ANA, Channel.BULK, b"thanks")
        await ana.hears(PeerMessage(BEN, b"thanks"))


@played
async def test_dialling_twice_changes_nothing_and_undialling_ends_it() -> None:
    """The second dial is a no-op. After undial the link is down, told once, and Ben has to introduce himself in
    vain."""
    with stage() as s:
        ana, ben = await s.pair()
        ana.dial(ben)
        ana.transport.undial(BEN)
        assert ana.events == [LinkUp(BEN, 1), LinkDown(BEN)]
        assert not ana.transport.send(BEN, Channel.CTL, b"gone")
        await ben.hears(LinkDown(ANA))
        await ben.counts("refused_by_peer")
        assert ana.transport.counters["hello_refused"] >= 1


@played
async def test_a_moved_node_is_followed() -> None:
    """Ben moves to another address. Dialling him there takes down the old link and brings up the new."""
    with stage() as s:
        ana, ben = await s.pair()
        moved = s.node("ben", incarnation=2)
        moved.dial(ana)
        ana.dial(moved)
        await ana.hears(LinkUp(BEN, 2))
        assert ana.events == [LinkUp(BEN, 1), LinkDown(BEN), LinkUp(BEN, 2)]
        ben.transport.close()
        assert ana.transport.send(BEN, Channel.DATA, b"found you")
        await moved.hears(PeerMessage(ANA, b"found you"))


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_a_killed_node_is_known_dead_in_milliseconds(secret: bytes | None) -> None:
    """Ben runs in his own process and is killed. Ana is told within 100 ms."""

    @played
    async def story() -> None:
        with stage() as s:
            ana = s.node("ana", secret=secret)
            base = free_base()
            async with understudy("ben", base, secret=secret) as ben:
                ana.transport.dial(BEN, f"127.0.0.1:{base}")
                await ana.hears(LinkUp(BEN, 1))
                died = time.monotonic()
                ben.kill()
                await ana.hears(LinkDown(BEN))
                assert time.monotonic() - died < 0.1
                assert not ana.transport.send(BEN, Channel.CTL, b"too late")

    story()


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_a_restarted_node_comes_back_as_its_next_incarnation(secret: bytes | None) -> None:
    """Ben dies and starts again on the same ports. Ana's link comes back, to incarnation 2, and what she said to the
    dead one reaches nobody."""

    @played
    async def story() -> None:
        with stage() as s:
            ana = s.node("ana", secret=secret)
            base = free_base()
            dials = {"ana": ana.address}
            async with understudy("ben", base, secret=secret, dials=dials) as ben:
                ana.transport.dial(BEN, f"127.0.0.1:{base}")
                await ana.hears(LinkUp(BEN, 1))
                ben.send_signal(signal.SIGSTOP)
                ana.transport.send(BEN, Channel.DATA, b"for the first")
                ben.kill()
                await ana.hears(LinkDown(BEN))
            async with understudy("ben", base, incarnation=2, secret=secret, dials=dials):
                await ana.hears(LinkUp(BEN, 2))
                assert ana.transport.send(BEN, Channel.DATA, b"for the second")
                await ana.hears(PeerMessage(BEN, b"for the second"))
            assert PeerMessage(BEN, b"for the first") not in ana.events

    story()


@played
async def test_an_older_self_is_turned_away_and_a_newer_one_takes_over() -> None:
    """Two processes claim to be Ben. The newer incarnation has the link; the older is told, whichever came first."""
    with stage() as s:
        ana = s.node("ana")
        ana.lets_in(BEN)
        first, third, second = (s.node("ben", incarnation=n) for n in (1, 3, 2))
        first.dial(ana)
        await first.hears(LinkUp(ANA, 1))
        third.dial(ana)
        await third.hears(LinkUp(ANA, 1))
        await first.hears(LinkDown(ANA))
        second.dial(ana)
        await second.counts("refused_by_peer")
        assert second.events == []
        assert third.events == [LinkUp(ANA, 1)]
        assert ana.transport.send(BEN, Channel.CTL, b"to the newest")
        await third.hears(PeerMessage(ANA, b"to the newest"))


@played
async def test_an_older_self_is_turned_away_even_when_the_newer_is_gone() -> None:
    """Incarnation 3 of Ben was linked and has closed. Incarnation 2 is refused when it dials, and when it is
    dialled."""
    with stage() as s:
        ana = s.node("ana")
        ana.lets_in(BEN)
        third = s.node("ben", incarnation=3)
        third.dial(ana)
        await third.hears(LinkUp(ANA, 1))
        third.transport.close()
        second = s.node("ben", incarnation=2)
        second.dial(ana)
        await second.counts("refused_by_peer")
        ana.dial(second)
        await ana.counts("welcome_refused")
        assert (ana.events, second.events) == ([], [])


@played
async def test_a_mesh_is_not_another_mesh() -> None:
    """Ben belongs to another cluster. Each refuses the other and neither is told of a link."""
    with stage() as s:
        ana, ben = s.node("ana"), s.node("ben", cluster="elsewhere")
        ana.dial(ben)
        ben.dial(ana)
        await ana.counts("hello_refused")
        await ben.counts("hello_refused")
        await ana.counts("refused_by_peer")
        assert (ana.events, ben.events) == ([], [])


@played
async def test_strangers_and_doubles_are_refused() -> None:
    """Eva, whom Ben does not know, and a second Ben, are both turned away."""
    with stage() as s:
        ben, eva, double = s.node("ben"), s.node("eva"), s.node("ben")
        eva.dial(ben)
        await eva.counts("refused_by_peer")
        double.transport.dial(NodeId("not ben"), ben.address)
        await double.counts("refused_by_peer")
        assert ben.transport.counters["hello_refused"] >= 2
        assert (eva.events, double.events, ben.events) == ([], [], [])


@played
async def test_whoever_answers_must_be_who_was_dialled() -> None:
    """Ana dials Eva and gets Ben, who even knows her. His welcome is not believed."""
    with stage() as s:
        ana, ben = s.node("ana"), s.node("ben")
        ben.lets_in(ANA)
        ana.transport.dial(NodeId("eva"), ben.address)
        await ana.counts("welcome_refused")
        assert ana.events == []


@played
async def test_too_long_is_refused_before_it_leaves() -> None:
    """The longest message of each channel arrives whole; one byte more is not sent."""
    with stage() as s:
        ana, ben = await s.pair()
        for channel in (Channel.CTL, Channel.DATA):
            longest = bytes([channel]) * BYTES_MAX[channel]
            assert not ana.transport.send(BEN, channel, longest + b"!")
            assert ana.transport.send(BEN, channel, longest)
            await ben.hears(PeerMessage(ANA, longest))
        assert ana.transport.counters == {"oversize": 2}
        assert ben.events[0] == LinkUp(ANA, 1)
        assert len(ben.events) == 3


@played
async def test_a_full_queue_says_so_and_loses_nothing_it_took() -> None:
    """Ben's process is stopped while Ana sends. Once she is told the queue is full, nothing more is taken; when he
    goes on, all that was taken arrives, and the link never broke."""
    with stage() as s:
        ana = s.node("ana")
        base = free_base()
        async with understudy("ben", base) as ben:
            ana.transport.dial(BEN, f"127.0.0.1:{base}")
            await ana.hears(LinkUp(BEN, 1))
            ben.send_signal(signal.SIGSTOP)
            taken = 0
            while ana.transport.send(BEN, Channel.DATA, b"%d" % taken + b" " * 65_536):
                taken += 1
                assert taken < 10_000
                await asyncio.sleep(0)
            assert ana.transport.counters == {"send_failed": 1}
            ben.send_signal(signal.SIGCONT)
            await ana.hears(PeerMessage(BEN, b"%d" % (taken - 1) + b" " * 65_536), within_ms=15_000)
            assert len(ana.events) == 1 + taken
            assert LinkDown(BEN) not in ana.events


@played
async def test_closing_leaves_nothing_open() -> None:
    """After everything is closed the process holds what it held before: descriptors and threads."""
    for warm in (True, False):
        before = descriptors(), threads()
        with stage() as s:
            ana, ben = await s.pair(secret=SECRET)
            for i in range(20):
                ana.transport.undial(BEN)
                ana.dial(ben)
                await ana.hears(LinkUp(BEN, 1), times=2 + i)
            ana.transport.send(BEN, Channel.BULK, b"opens a link that is never up")
            ana.transport.close()
            ana.transport.close()
        after = descriptors(), threads()
        assert warm or after == before


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@played
async def test_a_forked_child_leaves_its_parents_sockets_alone() -> None:
    """User code forks. The child may not use the transport, closing it there does nothing, and the parent goes on."""
    with stage() as s:
        ana, ben = await s.pair()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                ana.transport.close()
                try:
                    ana.transport.dial(NodeId("eva"), "127.0.0.1:20000")
                except AssertionError:
                    code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ana.transport.send(BEN, Channel.CTL, b"still here")
        await ben.hears(PeerMessage(ANA, b"still here"))


@played
async def test_another_thread_is_caught() -> None:
    """A send from another thread would corrupt the sockets; it fails instead."""
    with stage() as s:
        ana, _ = await s.pair()
        with pytest.raises(AssertionError, match="belong to the thread"):
            await asyncio.to_thread(ana.transport.send, BEN, Channel.CTL, b"from elsewhere")


@played
async def test_a_node_may_be_closed_by_what_it_hears() -> None:
    """Ben closes his transport while a message is being delivered. Nothing fails, and nothing more is delivered."""
    with stage() as s:
        ana, ben = await s.pair()
        ben.on_event = lambda event: ben.transport.close()
        for _ in range(10):
            ana.transport.send(BEN, Channel.DATA, b"stop")
        await ana.hears(LinkDown(BEN))
        assert ben.events == [LinkUp(ANA, 1), PeerMessage(ANA, b"stop")]


@played
async def test_addresses_that_cannot_be_dialled_are_counted() -> None:
    """An address comes from a peer and is nonsense: Ana counts it and goes on."""
    with stage() as s:
        ana = s.node("ana")
        for address in ("nonsense", "*:21000", "127.0.0.1:40000", "tcp://127.0.0.1:21000"):
            ana.transport.dial(BEN, address)
        ana.transport.dial(ANA, ana.address)
        assert ana.transport.counters == {"bad_address": 5}


def _refusal(bind: str, *, advertise: str = "", secret: bytes | None = None) -> str:
    async def attempt() -> str:
        with pytest.raises(TransportRefused) as refused:
            Transport(
                Identity(node_id="ana", cluster="cast", incarnation=1, role=NODE, secret=secret),
                bind=bind,
                advertise=advertise or bind,
                deliver=lambda event: None,
                turn_ended=lambda: None,
                loop=asyncio.get_running_loop(),
            ).bind()
        return str(refused.value)

    return asyncio.run(attempt())


def test_what_must_not_be_opened_is_refused() -> None:
    """In the open only loopback may be bound; ports of the ephemeral range never; wildcards are not advertised."""
    assert "Without a secret only loopback" in _refusal("0.0.0.0:21000", advertise="127.0.0.1:21000")
    assert "Without a secret only loopback" in _refusal("*:21000", advertise="127.0.0.1:21000")
    assert "Without a secret only loopback" in _refusal("192.0.2.1:21000")
    assert "outgoing connections" in _refusal("127.0.0.1:32765")
    assert "not HOST:PORT" in _refusal("127.0.0.1")
    assert "others can dial" in _refusal("0.0.0.0:21000", secret=SECRET)
    assert "secret has 9 bytes" in _refusal("127.0.0.1:21000", secret=b"too short")


@played
async def test_a_taken_port_is_refused_with_its_name_and_nothing_stays_open() -> None:
    """Eva wants ports of which Ana has one. She is told which, and holds none of the others afterwards."""
    with stage() as s:
        ana = s.node("ana")
        eva = s.node("eva", base=ana.base, bound=False)
        with pytest.raises(TransportRefused, match=f"Port {ana.base} of 127.0.0.1 cannot be bound"):
            eva.transport.bind()
        later = s.node("eva", base=ana.base - 3, bound=False)
        with pytest.raises(TransportRefused, match=f"Port {ana.base} of 127.0.0.1 cannot be bound"):
            later.transport.bind()
        s.node("ben", base=ana.base - 4)


@played
async def test_a_node_without_descriptors_keeps_its_links_and_recovers() -> None:
    """The process may open nothing more. What is linked goes on; a new link fails, is counted, and comes up later."""
    with stage() as s:
        ana, ben = await s.pair()
        eva = s.node("eva")
        eva.lets_in(ANA)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        held: list[int] = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(descriptors()) + 20, limits[1]))
            with contextlib.suppress(OSError):
                while True:
                    held.append(os.dup(0))
            ana.dial(eva)
            assert ana.transport.counters == {"socket_failed": 2}
            assert ana.transport.send(BEN, Channel.CTL, b"still here")
            await ben.hears(PeerMessage(ANA, b"still here"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for descriptor in held:
                os.close(descriptor)
        await ana.hears(LinkUp(EVA, 1))
        assert LinkDown(BEN) not in ana.events


@played
async def test_dialling_before_binding_is_fine() -> None:
    """A node may know whom to dial before it has its ports; gossip included."""
    with stage() as s:
        ana, ben = s.node("ana"), s.node("ben", bound=False)
        ana.lets_in(BEN)
        ana.transport.publish(b"rumour")
        ben.dial(ana)
        await ben.hears(LinkUp(ANA, 1))
        ben.transport.bind()
        await ben.hears(GossipReceived(b"rumour"))


@played
async def test_a_stopped_node_is_neither_up_nor_in_the_way() -> None:
    """Ben's process is stopped before Ana dials. The kernel accepts for him, which is no sign of life: no link is
    told until he goes on, and Ana serves Eva meanwhile."""
    with stage() as s:
        ana, eva = s.node("ana"), s.node("eva")
        eva.lets_in(ANA)
        base = free_base()
        async with understudy("ben", base) as ben:
            ben.send_signal(signal.SIGSTOP)
            ana.transport.dial(BEN, f"127.0.0.1:{base}")
            ana.dial(eva)
            await ana.hears(LinkUp(EVA, 1))
            assert ana.events == [LinkUp(EVA, 1)]
            ben.send_signal(signal.SIGCONT)
            await ana.hears(LinkUp(BEN, 1))
