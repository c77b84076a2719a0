"""Failures others met on ZeroMQ links, played again: who is linked with whom, and what becomes of what was said.

The numbers E1 to E48 are those of TRACK_RECORD.md, which also names the cases that are proved elsewhere.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import zmq

from mesh.effects import Channel
from mesh.events import LinkDown, LinkUp, PeerMessage
from mesh.ids import NodeId
from mesh.transport import sockets
from mesh.transport.curve import derive
from mesh.transport.sockets import QUEUED_MAX
from tests.transport.stage import (
    ANA,
    BEN,
    EVA,
    ROOT,
    SECRET,
    Stage,
    descriptors,
    free_base,
    has_v6,
    played,
    roll,
    stage,
    threads,
    understudy,
)


@played
async def test_e01_an_accepted_link_that_is_full_or_gone_says_so() -> None:
    """E1: Ben dialled Ana and is stopped. She sends until his queue is full and is told so; then he dies, and she is
    told that he is gone. So is whoever names a connection that never was."""
    with stage() as s:
        ana = s.node("ana")
        ana.lets_in(BEN)
        door = ana.transport._listeners[Channel.DATA]
        async with understudy("ben", free_base(), dials={"ana": ana.address}) as ben:
            await s.sees(lambda: _looked(door.has_node(BEN), s))
            ben.send_signal(signal.SIGSTOP)
            taken = 0
            while ana.transport.send(BEN, Channel.DATA, b" " * 65_536):
                taken += 1
            assert taken >= QUEUED_MAX[Channel.DATA] - 1
            assert ana.transport.counters == {"send_failed": 1}
            ben.kill()
            await ben.wait()
            async with asyncio.timeout(2):
                while door.has_node(BEN):
                    await asyncio.sleep(0)
        assert not ana.transport.send(BEN, Channel.DATA, b"late")
        assert not door._post(b"nobody", b"anybody?")
        assert ana.transport.counters == {"send_failed": 2, "no_link": 1}


@played
async def test_e05_a_peer_that_flaps_while_queues_are_tiny_harms_nobody() -> None:
    """E5: queues hold four messages. Ben comes, floods Ana with messages and publications which she does not read in
    time, and goes, twelve times. libzmq does not abort, and the last Ben is heard."""
    with pytest.MonkeyPatch.context() as patch, stage() as s:
        patch.setattr(sockets, "QUEUED_MAX", dict.fromkeys(QUEUED_MAX, 4))
        ana, base = s.node("ana"), free_base()
        for incarnation in range(1, 13):
            ben = s.node("ben", base=base, incarnation=incarnation)
            s.admit(4, ana, ben)
            await ana.hears(LinkUp(BEN, incarnation))
            await ben.hears(LinkUp(ANA, 1))
            taken = sum(ben.transport.send(ANA, Channel.DATA, b"x" * 1_000) for _ in range(200))
            assert taken < 200
            for i in range(200):
                ben.transport.publish(b"%d" % i)
            if incarnation < 12:
                ben.transport.close()
        await s.sees(lambda: ben.transport.send(ANA, Channel.CTL, b"the last"))
        await ana.hears(PeerMessage(BEN, b"the last"))


@played
async def test_e07_who_listens_late_knows_all_within_a_second() -> None:
    """E7: eight nodes spoke before Ana listened, and say nothing more. She hears the last words of each."""
    with stage() as s:
        ana = s.node("ana")
        others = [s.node(f"n{i}") for i in range(8)]
        for other in others:
            other.transport.publish(other.name.encode())
        began = time.monotonic()
        s.admit(4, ana, *others)
        await s.sees(lambda: len({getattr(event, "data", b"") for event in ana.events} - {b""}) == 8)
        assert time.monotonic() - began < 1


@played
async def test_e10_a_hundred_links_come_and_go_and_leave_nothing() -> None:
    """E10: Ana dials and undials Ben a hundred times, with messages under way he does not get. Closing takes no time,
    and descriptors and threads are as before; monitors included."""
    with stage() as s:
        ana, ben = s.node("ana"), s.node("ben")
        ben.lets_in(ANA)
        before = descriptors(), threads()
        for i in range(100):
            ana.dial(ben)
            await ana.hears(LinkUp(BEN, 1), times=1 + i)
            for _ in range(20):
                ana.transport.send(BEN, Channel.DATA, b"x" * 10_000)
            began = time.monotonic()
            ana.transport.undial(BEN)
            assert time.monotonic() - began < 0.1
        doors = [ben.transport._listeners[channel] for channel in (Channel.CTL, Channel.DATA)]
        async with asyncio.timeout(2):
            while any(door._accepted for door in doors) or descriptors() != before[0]:
                await asyncio.sleep(0.001)
        assert threads() == before[1]
        ana.dial(ben)
        await ana.hears(LinkUp(BEN, 1), times=101)
        while ana.transport.send(BEN, Channel.DATA, b"x" * 65_536):
            pass
        began = time.monotonic()
        ana.transport.close()
        assert time.monotonic() - began < 1


@played
async def test_e12_a_context_without_sockets_keeps_its_links_and_recovers() -> None:
    """E12: there is room for few sockets. Dialling twenty nodes fails for most, and is counted; the link to Ben goes
    on. When the twenty are let go, Eva is reached."""
    with pytest.MonkeyPatch.context() as patch, stage() as s:
        patch.setattr(sockets, "SOCKETS_MAX", 40)
        ana, ben, eva = s.node("ana"), s.node("ben"), s.node("eva")
        for other in (ben, eva):
            other.lets_in(ANA)
        ana.dial(ben)
        await ana.hears(LinkUp(BEN, 1))
        for i in range(19):
            ana.transport.dial(NodeId(f"n{i}"), f"127.0.0.1:{free_base()}")
        ana.dial(eva)
        assert ana.transport.counters["socket_failed"] >= 20
        assert ana.transport.send(BEN, Channel.CTL, b"still here")
        await ben.hears(PeerMessage(ANA, b"still here"))
        for i in range(19):
            ana.transport.undial(NodeId(f"n{i}"))
        await ana.hears(LinkUp(EVA, 1))
        assert LinkDown(BEN) not in ana.events


@pytest.mark.skipif(not has_v6(), reason="this machine has no IPv6 loopback")
@played
async def test_e14_bound_to_everything_in_version_6_and_dialled_in_version_4() -> None:
    """E14: Ana binds [::] and is dialled at 127.0.0.1, at ::1, and by a client at a version 4 address written as one
    of version 6."""
    with stage() as s:
        base = free_base()
        ana = s.node("ana", base=base, secret=SECRET, host="[::]", advertise=f"127.0.0.1:{base}")
        ana.lets_in(BEN, EVA)
        ben, eva = s.node("ben", secret=SECRET), s.node("eva", secret=SECRET)
        ben.transport.dial(ANA, f"127.0.0.1:{base}")
        eva.transport.dial(ANA, f"[::1]:{base}")
        cli = s.client(f"[::ffff:127.0.0.1]:{base}", secret=SECRET)
        await ben.hears(LinkUp(ANA, 1))
        await eva.hears(LinkUp(ANA, 1))
        await s.sees(lambda: cli.ups)


@played
async def test_e15_two_processes_of_one_incarnation_do_not_drive_each_other_out() -> None:
    """E15: Ben's directory was copied, and both run: the same id, the same log, the same incarnation. Ana stays with
    the first; the second is told why it is not let in, time and again, and the first never loses its link."""
    with stage() as s:
        ana, first = (s.node(name, mark=f"m-{name}") for name in ("ana", "ben"))
        s.admit(4, ana, first)
        await ana.hears(LinkUp(BEN, 1, "m-ben"))
        await first.hears(LinkUp(ANA, 1, "m-ana"))
        copy = s.node("ben", mark="m-ben")
        copy.transport.admit(roll(4, ana, first), ana.transport._around.notary.since)
        await copy.counts("refused_by_peer")
        await s.sees(lambda: _looked(copy.transport.counters["refused_by_peer"] >= 4, s))
        assert copy.told(LinkUp) == []
        assert LinkDown(ANA) not in first.events
        assert ana.events == [LinkUp(BEN, 1, "m-ben")]
        assert ana.transport.send(BEN, Channel.CTL, b"to the first")
        await first.hears(PeerMessage(ANA, b"to the first"))


@played
async def test_e15_the_older_process_does_not_come_back() -> None:
    """E15: incarnation 2 of Ben takes over from 1, which goes on running and dialling. For a while nothing moves: 2
    stays linked, 1 is told, and what is sent to Ben reaches 2."""
    with stage() as s:
        ana = s.node("ana")
        ana.lets_in(BEN)
        first, second = s.node("ben", incarnation=1), s.node("ben", incarnation=2)
        first.dial(ana)
        await first.hears(LinkUp(ANA, 1))
        second.dial(ana)
        await second.hears(LinkUp(ANA, 1))
        await first.hears(LinkDown(ANA))
        await s.sees(lambda: _looked(first.transport.counters.get("refused_by_peer", 0) >= 4, s))
        assert first.events == [LinkUp(ANA, 1), LinkDown(ANA)]
        assert second.events == [LinkUp(ANA, 1)]
        assert ana.transport.send(BEN, Channel.CTL, b"to the second")
        await second.hears(PeerMessage(ANA, b"to the second"))


def _looked(value: bool, s: Stage) -> bool:
    """`value`; if it is not so yet, look again soon, as nothing that is waited for may announce itself."""
    if not value:
        asyncio.get_running_loop().call_later(0.01, s.audience.stir)
    return value


class Relay:
    """Stands between a dialler and a node's four ports, and can cut what goes through it."""

    def __init__(self, base: int, target: int) -> None:
        self.base = base
        self.target = target
        self._writers: dict[asyncio.StreamWriter, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []

    async def open(self) -> None:
        for channel in Channel:
            self._servers.append(await asyncio.start_server(self._to(channel), "127.0.0.1", self.base + channel))

    def _to(self, channel: Channel) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_connection("127.0.0.1", self.target + channel)
            for source, sink in ((reader, there[1]), (there[0], writer)):
                self._writers[sink] = None
                task = asyncio.get_running_loop().create_task(self._carry(source, sink))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        return serve

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                sink.write(data)
        sink.transport.abort()
        self._writers.pop(sink, None)

    def cut(self) -> None:
        """End every connection that goes through here now."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        self.cut()
        await asyncio.gather(*self._tasks)


@contextlib.asynccontextmanager
async def _relay(target: int) -> AsyncIterator[Relay]:
    relay = Relay(free_base(), target)
    await relay.open()
    try:
        yield relay
    finally:
        await relay.close()


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_e17_a_connection_that_breaks_is_another_one_afterwards(secret: bytes | None) -> None:
    """E17: something in between cuts Ana's connections while both ends live on. She is told, introduces herself anew
    at once, and Ben knows her by another routing id. What she said before and after arrives once; what she could not
    say she was told."""

    @played
    async def story() -> None:
        with stage() as s:
            ana, ben = s.node("ana", secret=secret), s.node("ben", secret=secret)
            ben.lets_in(ANA)
            async with _relay(ben.base) as relay:
                ana.transport.dial(BEN, f"127.0.0.1:{relay.base}")
                await ana.hears(LinkUp(BEN, 1))
                door = ben.transport._listeners[Channel.CTL]
                before = door._nodes[ANA].routing_id
                assert ana.transport.send(BEN, Channel.CTL, b"before")
                await ben.hears(PeerMessage(ANA, b"before"))
                cut = time.monotonic()
                relay.cut()
                await ana.hears(LinkDown(BEN))
                assert not ana.transport.send(BEN, Channel.CTL, b"in between")
                await ana.hears(LinkUp(BEN, 1), times=2)
                assert time.monotonic() - cut < 0.5
                assert door._nodes[ANA].routing_id != before
                assert ana.transport.send(BEN, Channel.CTL, b"after")
                await ben.hears(PeerMessage(ANA, b"after"))
            assert ben.told(PeerMessage) == [PeerMessage(ANA, b"before"), PeerMessage(ANA, b"after")]

    story()


@played
async def test_e19_a_mesh_without_a_secret_holds_the_port_for_a_while() -> None:
    """E19: on Ben's ports there is first ZeroMQ without CURVE, whose handshake fails, after which libzmq never tries
    again by itself. When Ben has them, he is reached."""
    with stage() as s:
        base = free_base()
        ana = s.node("ana", secret=SECRET)
        with zmq.Context() as context, context.socket(zmq.ROUTER) as ctl, context.socket(zmq.ROUTER) as data:
            for foreign, channel in ((ctl, Channel.CTL), (data, Channel.DATA)):
                foreign.linger = 0
                foreign.bind(f"tcp://127.0.0.1:{base + channel}")
            ana.transport.dial(BEN, f"127.0.0.1:{base}")
            await ana.counts("handshake_failed")
        ben = s.node("ben", base=base, secret=SECRET)
        ben.lets_in(ANA)
        await ana.hears(LinkUp(BEN, 1))


@played
async def test_e20_who_repeats_our_greeting_is_ourselves() -> None:
    """E20: a connection that was given the very port it dials is its own other end, and says what we say. Ana takes
    that for nobody, at once, and dials again later."""
    with stage() as s, zmq.Context() as context, context.socket(zmq.ROUTER) as mirror:
        mirror.linger, mirror.rcvtimeo = 0, 5_000
        base = free_base()
        mirror.bind(f"tcp://127.0.0.1:{base}")
        ana = s.node("ana")
        ana.transport.dial(EVA, f"127.0.0.1:{base}")
        for _ in range(2):
            routing_id, raw = await asyncio.to_thread(mirror.recv_multipart)
            mirror.send_multipart([routing_id, raw])
            seen = time.monotonic()
            await ana.counts("own_words")
            assert time.monotonic() - seen < 0.5
        assert ana.events == []


def _has_namespaces() -> bool:
    """Whether this user may make a network namespace, tried."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"mesh-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    return made and subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _has_namespaces(), reason="needs root and `ip netns`")
def test_e20_a_real_connection_with_oneself() -> None:
    """E20: in a namespace whose ephemeral range is four ports wide, Ana dials one of them (she is made to; an address
    there is refused) until TCP connects her with herself. She notices, and nothing is told of a link."""
    name = f"mesh-e20-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        script = (
            "ip link set lo up && echo 40000 40003 > /proc/sys/net/ipv4/ip_local_port_range"
            f" && exec {sys.executable} -m tests.transport.own_words"
        )
        command = ["ip", "netns", "exec", name, "sh", "-c", script]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, cwd=ROOT)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    told, counters = json.loads(ended.stdout)
    assert told == 0
    assert counters["own_words"] == 1


@played
async def test_e37_a_judge_that_is_late_keeps_everybody_waiting() -> None:
    """E37: the judge does not answer for a while (the loop is busy). Nobody gets in meanwhile, not even with the right
    key; the same connection does as soon as it answers."""
    with stage() as s:
        ana, keys = s.node("ana", secret=SECRET), derive(SECRET)
        judge = ana.transport._judge
        assert judge is not None
        ana.transport._around.pump.unwatch(judge)
        with zmq.Context() as context, context.socket(zmq.DEALER) as bare:
            bare.linger = 0
            bare.curve_publickey = bare.curve_serverkey = keys.public
            bare.curve_secretkey = keys.private
            monitor = bare.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
            bare.connect(f"tcp://127.0.0.1:{ana.base}")
            assert not await asyncio.to_thread(monitor.poll, 500)
            ana.transport._around.pump.watch(judge)
            assert await asyncio.to_thread(monitor.poll, 2_000)
            bare.disable_monitor()
            monitor.close(0)


_GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f"
_FOREIGN = {
    "ZMTP 1": b"\x01\0",
    "ZMTP 1 with an id": b"\x04\0ben",
    "ZMTP 2": _GREETING + b"\x01\x05" + b"\0\0",
    "ZMTP 3 in the open": _GREETING + b"\3\0NULL" + b"\0" * 48 + b"\4\x19\5READY\x0bSocket-Type\0\0\0\6DEALER",
    "ZMTP 3 with a password": _GREETING + b"\3\0PLAIN" + b"\0" * 47 + b"\4\x10\5HELLO\3ben\5guess",
}


@pytest.mark.parametrize("name", _FOREIGN)
def test_e38_older_and_weaker_protocols_are_not_spoken(name: str) -> None:
    """E38: on a port with CURVE a stranger greets in ZMTP 1 or 2, with no mechanism or with a password, and goes on
    as if that were enough. The connection is ended, nothing of it is delivered."""

    @played
    async def story() -> None:
        with stage() as s:
            ana = s.node("ana", secret=SECRET)
            for channel in Channel:
                ended = await asyncio.to_thread(_ended, ana.base + channel, _FOREIGN[name] + b"\0\5hello")
                assert ended, channel
            if "3" in name:  # Of the older ones libzmq tells nobody.
                await ana.counts("handshake_failed")
            assert ana.events == []

    story()


def _ended(port: int, said: bytes) -> bool:
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.settimeout(2)
        try:
            raw.sendall(said)
            while raw.recv(1_024):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
    return True


@played
async def test_e40_nothing_is_heard_any_more_of_who_was_struck_off() -> None:
    """E40: Eva's messages wait in Ana's socket when the roll of that moment is without her. None of them is
    delivered, on any channel, and her link is over."""
    with stage() as s:
        ana, eva = (s.node(name, mark=f"m-{name}") for name in ("ana", "eva"))
        s.admit(4, ana, eva)
        await eva.hears(LinkUp(ANA, 1, "m-ana"))
        doors = [ana.transport._listeners[channel] for channel in (Channel.CTL, Channel.DATA)]
        await s.sees(lambda: _looked(all(door.has_node(EVA) for door in doors), s))
        for channel in (Channel.CTL, Channel.DATA):
            for i in range(50):
                assert eva.transport.send(ANA, channel, b"%d" % i)
        for door in doors:
            assert door.socket.poll(2_000)
        ana.transport.admit(roll(5, ana), ana.transport._around.notary.since)
        await eva.hears(LinkDown(ANA))
        assert ana.told(PeerMessage) == []
