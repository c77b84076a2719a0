"""Clients: they dial the data port, may not know the mesh's name, and are numbered by the node."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from itertools import pairwise

import pytest
import zmq

from mesh.config import PROTOCOL
from mesh.effects import Channel
from mesh.events import ClientGone, ClientMessage, Event, PeerMessage
from mesh.ids import ClientId
from mesh.transport import CLIENT, ClientLink, Identity, TransportRefused, listener
from mesh.transport.handshake import MESSAGE, NONCE_BYTES, WELCOME, Notary, header
from mesh.transport.sockets import BYTES_MAX
from tests.transport.stage import ANA, CLUSTER, SECRET, descriptors, free_base, played, stage, threads, understudy


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_a_client_is_served(secret: bytes | None) -> None:
    """A client that knows only an address comes up, learns whom it reached, asks, and is answered."""

    @played
    async def story() -> None:
        with stage() as s:
            ana = s.node("ana", incarnation=4, secret=secret)
            cli = s.client(ana.address, secret=secret)
            await s.sees(lambda: cli.ups)
            assert cli.ups == [(ANA, 4)]
            assert cli.link.up
            assert cli.link.send(b"question")
            await ana.hears(ClientMessage(ClientId(1), b"question"))
            assert ana.transport.reply(ClientId(1), b"answer")
            await s.sees(lambda: cli.said)
            assert cli.said == [b"answer"]
            assert ana.events == [ClientMessage(ClientId(1), b"question")]
            assert (cli.link.counters, ana.transport.counters) == ({}, {})

    story()


@played
async def test_clients_are_told_apart_and_their_numbers_never_come_again() -> None:
    """Three clients of the same name, one after the other and two at once: each has its own number, and an answer
    goes to one."""
    with stage() as s:
        ana = s.node("ana")
        first = s.client(ana.address)
        await s.sees(lambda: first.ups)
        first.link.send(b"1st")
        await ana.hears(ClientMessage(ClientId(1), b"1st"))
        first.link.close()
        await ana.hears(ClientGone(ClientId(1)))
        second, third = s.client(ana.address), s.client(ana.address)
        await s.sees(lambda: second.ups and third.ups)
        second.link.send(b"2nd")
        third.link.send(b"3rd")
        await s.sees(lambda: len(ana.events) == 4)
        numbers = {e.data: e.client for e in ana.events if isinstance(e, ClientMessage)}
        assert sorted(numbers.values()) == [1, 2, 3]
        assert ana.transport.reply(numbers[b"3rd"], b"to the third")
        assert ana.transport.reply(numbers[b"2nd"], b"to the second")
        assert not ana.transport.reply(numbers[b"1st"], b"to nobody")
        await s.sees(lambda: second.said and third.said)
        assert (second.said, third.said) == ([b"to the second"], [b"to the third"])


def _bare(context: "zmq.Context[zmq.Socket[bytes]]", kind: int) -> "zmq.Socket[bytes]":
    """A socket that delivers what it was given before it is gone, however late that is."""
    made = context.socket(kind)
    made.linger = 5_000
    made.rcvtimeo = 5_000
    return made


def _notary(name: str, role: str) -> Notary:
    return Notary(Identity(node_id=name, cluster=CLUSTER, incarnation=1, role=role, secret=None), None)


@played
async def test_what_a_leaving_client_said_last_is_heard_before_it_is_gone() -> None:
    """While the node is busy a client says 100 things and hangs up. All are delivered, then ClientGone, nothing
    after."""
    with stage() as s:
        ana = s.node("ana")
        with zmq.Context() as context:
            cli = _bare(context, zmq.DEALER)
            cli.connect(f"tcp://127.0.0.1:{ana.base + Channel.DATA}")
            cli.send(_notary("cli", CLIENT).hello(Channel.DATA, b"n" * NONCE_BYTES, PROTOCOL))
            welcome = await asyncio.to_thread(cli.recv)
            assert welcome[0] == WELCOME
            for i in range(100):
                cli.send(header.pack(MESSAGE, i + 1) + b"%d" % i)
            cli.close()
        # The context has ended, so all of it has left; and the loop has not run in between.
        await ana.hears(ClientGone(ClientId(1)))
        assert ana.events == [ClientMessage(ClientId(1), b"%d" % i) for i in range(100)] + [ClientGone(ClientId(1))]


@contextlib.contextmanager
def _only_free_below(descriptor: int) -> Iterator[None]:
    """Takes all free descriptors below this one but the last, which is for the connecting end."""
    held = []
    while (taken := os.dup(0)) < descriptor:
        held.append(taken)
    os.close(taken)
    if held:
        os.close(held.pop())
    try:
        yield
    finally:
        for taken in held:
            os.close(taken)


@played
async def test_a_descriptor_used_again_is_not_taken_for_the_client_that_had_it() -> None:
    """One client leaves and another comes while the node is busy; the system gives the newcomer the descriptor of the
    one who left. The node reads the greeting before it has read that somebody left. Only the right one is gone
    afterwards."""
    with stage() as s, zmq.Context() as context:
        ana = s.node("ana")
        door = ana.transport._listeners[Channel.DATA]
        notary = _notary("cli", CLIENT)
        gone = 0
        for _ in range(50):
            first, second = _bare(context, zmq.DEALER), _bare(context, zmq.DEALER)
            first.connect(f"tcp://127.0.0.1:{ana.base + Channel.DATA}")
            first.send(notary.hello(Channel.DATA, b"1" * NONCE_BYTES, PROTOCOL))
            await asyncio.to_thread(first.recv)
            (descriptor,) = door._descriptors
            monitor = door._watch.monitor.socket
            first.close()
            assert monitor.poll(5_000)
            with _only_free_below(descriptor):
                second.connect(f"tcp://127.0.0.1:{ana.base + Channel.DATA}")
                second.send(notary.hello(Channel.DATA, b"2" * NONCE_BYTES, PROTOCOL))
                assert door.socket.poll(5_000)
            door.drain(256)
            reused = descriptor in door._descriptors
            await ana.hears(ClientGone(ClientId(gone + 1)))
            assert ana.events.count(ClientGone(ClientId(gone + 2))) == 0
            assert ana.transport.reply(ClientId(gone + 2), b"you are still here")
            second.close()
            await ana.hears(ClientGone(ClientId(gone + 2)))
            gone += 2
            if reused:
                return
        pytest.fail("in 50 attempts no descriptor was used again")


@played
async def test_a_node_that_dies_and_returns() -> None:
    """The node is killed: the client is told why its link ended. It comes back on the same address: so does the
    link."""
    with stage() as s:
        base = free_base()
        async with understudy("ana", base) as ana:
            cli = s.client(f"127.0.0.1:{base}")
            await s.sees(lambda: cli.ups)
            ana.kill()
            await s.sees(lambda: cli.downs)
            assert cli.downs[0] == "The connection ended."
            assert not cli.link.up
            assert not cli.link.send(b"too late")
        async with understudy("ana", base, incarnation=2):
            await s.sees(lambda: len(cli.ups) == 2)
            assert cli.ups == [(ANA, 1), (ANA, 2)]
            assert cli.link.send(b"echo this")
            await s.sees(lambda: cli.said)
            assert cli.said == [b"echo this"]


@played
async def test_an_address_where_nobody_listens_is_reported_soon() -> None:
    """No waiting for a timeout: the refused connection itself is told, within a second."""
    with stage() as s:
        base = free_base()
        cli = s.client(f"127.0.0.1:{base}")
        await s.sees(lambda: cli.downs, within_ms=1_000)
        assert cli.downs[0] == f"Nobody listens at 127.0.0.1:{base}."
        ana = s.node("ana", base=base)
        await s.sees(lambda: cli.ups)
        assert ana.events == []


@played
async def test_a_client_of_another_mesh_or_secret_is_refused_with_the_reason() -> None:
    """One insists on another mesh, one has no secret, one has another secret. None comes up; the first is told in
    words."""
    with stage() as s:
        ana, eva = s.node("ana"), s.node("eva", secret=SECRET)
        picky = s.client(ana.address, cluster="elsewhere")
        bare = s.client(eva.address)
        wrong = s.client(eva.address, secret=b"not the secret of this mesh")
        await s.sees(lambda: picky.downs and bare.downs and wrong.downs)
        assert picky.downs[0] == "This is mesh 'cast', not 'elsewhere'."
        assert (picky.ups, bare.ups, wrong.ups) == ([], [], [])
        right = s.client(ana.address, cluster="cast")
        await s.sees(lambda: right.ups)


@played
async def test_clients_beyond_the_bound_are_refused() -> None:
    """A node serves two clients (say). The third is told so; when one leaves, it comes in by itself."""
    with pytest.MonkeyPatch.context() as patch, stage() as s:
        patch.setattr(listener, "CLIENTS_MAX", 2)
        ana = s.node("ana")
        first, second = s.client(ana.address), s.client(ana.address)
        await s.sees(lambda: first.ups and second.ups)
        third = s.client(ana.address)
        await s.sees(lambda: third.downs)
        assert third.downs == ["This node serves 2 clients already."]
        first.link.close()
        await s.sees(lambda: third.ups)


@played
async def test_clients_are_not_nodes() -> None:
    """A client that bears a node's name is a client: it gets no node's messages, and sends none."""
    with stage() as s:
        ana, ben = await s.pair()
        cli = s.client(ana.address)
        imposter = ClientLink(
            ana.address,
            Identity(node_id="ben", cluster="cast", incarnation=99, role=CLIENT, secret=None),
            loop=asyncio.get_running_loop(),
            on_message=cli.said.append,
            on_up=lambda peer, incarnation: s.audience.stir(),
            on_down=cli.downs.append,
        )
        await s.sees(lambda: imposter.up)
        imposter.send(b"I am Ben")
        await s.sees(lambda: [event for event in ana.events if isinstance(event, ClientMessage)])
        assert ana.transport.send(ben.name, Channel.DATA, b"for Ben")
        await ben.hears(PeerMessage(ANA, b"for Ben"))
        assert cli.said == []
        assert not [event for event in ana.events if isinstance(event, PeerMessage)]
        imposter.close()


@played
async def test_many_clients_at_once() -> None:
    """50 clients dial at the same time. All come up, each gets its own answer, all are gone when they leave."""
    with stage() as s:
        ana = s.node("ana")

        def echo(event: Event) -> None:
            if isinstance(event, ClientMessage):
                ana.transport.reply(event.client, event.data)

        ana.on_event = echo
        clients = [s.client(ana.address) for _ in range(50)]
        await s.sees(lambda: all(cli.ups for cli in clients), within_ms=10_000)
        for i, cli in enumerate(clients):
            assert cli.link.send(b"%d" % i)
        await s.sees(lambda: all(cli.said for cli in clients))
        assert [cli.said for cli in clients] == [[b"%d" % i] for i in range(50)]
        for cli in clients:
            cli.link.close()
        gone = await s.sees(lambda: [e.client for e in ana.events if isinstance(e, ClientGone)][49:])
        assert len(gone) == 1
        counts = sorted(event.client for event in ana.events if isinstance(event, ClientGone))
        assert all(later - earlier == 1 for earlier, later in pairwise(counts))


@played
async def test_a_client_has_bounds_and_manners() -> None:
    """Too long is refused here; bad addresses and short secrets are refused at once; closing twice is harmless."""
    with stage() as s:
        ana = s.node("ana")
        cli = s.client(ana.address)
        await s.sees(lambda: cli.ups)
        assert not cli.link.send(b"x" * (BYTES_MAX[Channel.DATA] + 1))
        assert cli.link.send(b"x" * BYTES_MAX[Channel.DATA])
        await ana.hears(ClientMessage(ClientId(1), b"x" * BYTES_MAX[Channel.DATA]))
        assert cli.link.counters == {"oversize": 1}
        cli.link.close()
        cli.link.close()
        assert not cli.link.send(b"closed")
        for address in ("nonsense", "*:21000", "127.0.0.1:40000"):
            with pytest.raises(TransportRefused):
                s.client(address)
        with pytest.raises(TransportRefused):
            s.client(ana.address, secret=b"short")


@played
async def test_a_closed_client_leaves_nothing_open() -> None:
    """Descriptors and threads are what they were, whether the link was up, was dialling, or was refused."""
    with stage() as s:
        ana = s.node("ana")
        for warm in (True, False):
            before = descriptors(), threads()
            up, dialling, refused = (
                s.client(ana.address),
                s.client(f"127.0.0.1:{free_base()}"),
                s.client(ana.address, cluster="elsewhere"),
            )
            known = len(ana.events)
            await s.sees(lambda: up.ups and dialling.downs and refused.downs)  # noqa: B023
            for cli in (up, dialling, refused):
                cli.link.close()
            await s.sees(lambda: len(ana.events) > known)  # noqa: B023
            assert warm or _without_accepted(descriptors(), threads()) == _without_accepted(*before)


def _without_accepted(open_now: list[str], threads_now: int) -> tuple[list[str], int]:
    """The node's ends of connections go away in their own time."""
    return [kind for kind in open_now if kind != "socket:"], threads_now
