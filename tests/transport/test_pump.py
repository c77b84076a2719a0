"""One turn: what is read first, how much of it, and that nothing readable is forgotten."""

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
import zmq

from mesh.effects import Channel
from mesh.events import Event, PeerMessage
from mesh.transport import pump as pump_module
from mesh.transport.pump import BUDGET, Pump
from tests.transport.stage import ANA, BEN, SECRET, Audience, Player, played, stage


class _Pipe:
    """One end of a PAIR as a source; `peer` is the other. Notes what it read under its name."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", name: str, rank: int, notes: list[str]) -> None:
        self.rank = rank
        self.socket = context.socket(zmq.PAIR)
        self.peer = context.socket(zmq.PAIR)
        self.socket.rcvhwm = self.peer.sndhwm = 0
        self.socket.bind(f"inproc://{name}")
        self.peer.connect(f"inproc://{name}")
        self._name = name
        self._notes = notes
        self.read: Callable[[bytes], None] = lambda data: None

    def drain(self, budget: int) -> bool:
        for _ in range(budget):
            try:
                data = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return False
            self._notes.append(self._name)
            self.read(data)
        return True

    def close(self) -> None:
        self.socket.close(0)
        self.peer.close(0)


def test_important_sockets_are_read_first_and_none_starves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bulk has 1,000 messages waiting, data 300, control 2. All of control comes first, then data within its budget,
    then bulk within its budget; the rest in later turns, each of which ends once."""
    monkeypatch.setattr(pump_module, "TICK_MS", 3_600_000)

    @played
    async def story() -> None:
        notes: list[str] = []
        audience = Audience()

        def turn_ended() -> None:
            notes.append("end")
            audience.stir()

        with zmq.Context() as context:
            pump = Pump(asyncio.get_running_loop(), turn_ended)
            bulk, data, ctl = (
                _Pipe(context, name, rank, notes) for name, rank in (("bulk", 4), ("data", 2), ("ctl", 1))
            )
            for pipe, waiting in ((bulk, 1_000), (data, 300), (ctl, 2)):
                pipe.read = lambda _: pump.told()
                for _ in range(waiting):
                    pipe.peer.send(b"")
                pump.watch(pipe)
            await audience.sees(lambda: len(notes) >= 1_306)
            first = ["ctl"] * 2 + ["data"] * BUDGET + ["bulk"] * BUDGET + ["end"]
            second = ["data"] * (300 - BUDGET) + ["bulk"] * BUDGET + ["end"]
            assert notes[: len(first)] == first
            assert notes[len(first) : len(first) + len(second)] == second
            assert notes.count("bulk") == 1_000
            assert notes.count("end") == 4
            for pipe in (bulk, data, ctl):
                pump.unwatch(pipe)
                pipe.close()
            pump.close()

    story()


@played
async def test_timers_run_while_a_socket_is_flooded() -> None:
    """100,000 messages wait on one socket. A timer due in the middle of reading them is not kept until the end."""
    notes: list[str] = []
    loop = asyncio.get_running_loop()
    with zmq.Context() as context:
        pump = Pump(loop, lambda: None)
        data = _Pipe(context, "data", 2, notes)
        for _ in range(100_000):
            data.peer.send(b"")
        pump.watch(data)
        rang: asyncio.Future[int] = loop.create_future()
        loop.call_later(0.001, lambda: rang.set_result(len(notes)))
        assert await rang < 50_000
        pump.unwatch(data)
        data.close()
        pump.close()


@played
async def test_one_round_of_the_loop_reads_one_turn_of_a_flood() -> None:
    """20,000 messages wait, and the socket signals them all the time. In each round of the loop one turn reads, from
    the first round to the last, so that a timer never waits for more than its share."""
    notes: list[str] = []
    loop = asyncio.get_running_loop()
    with zmq.Context() as context:
        pump = Pump(loop, lambda: None)
        data = _Pipe(context, "data", 2, notes)
        for _ in range(20_000):
            data.peer.send(b"")
        data.read = lambda _: data.peer.send(b"") if len(notes) < 40_000 else None
        pump.watch(data)
        rounds = [0]
        while rounds[-1] < 50_000:
            await asyncio.sleep(0)
            rounds.append(len(notes))
        assert max(later - earlier for earlier, later in pairwise(rounds)) <= BUDGET
        pump.unwatch(data)
        data.close()
        pump.close()


@pytest.mark.parametrize("ticking", [True, False], ids=["tick", "no tick"])
def test_a_message_that_arrives_while_we_send_is_not_missed(ticking: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ana and Ben throw 16 balls back and forth 500 times each, sending only at the ends of turns. Sending swallows
    the signal that something arrived; every ball comes back all the same, also when the safety tick never comes."""
    if not ticking:
        monkeypatch.setattr(pump_module, "TICK_MS", 3_600_000)

    @played
    async def story() -> None:
        with stage() as s:
            ana, ben = await s.pair(secret=SECRET)
            for player, other in ((ana, BEN), (ben, ANA)):
                _juggle(player, other)
            for ball in range(16):
                assert ana.transport.send(BEN, Channel.DATA, b"%d" % (ball * 10_000))
            await s.sees(lambda: _caught(ana) + _caught(ben) >= 16 * 500, within_ms=15_000)

    story()


def _juggle(player: Player, other: object) -> None:
    hands: list[bytes] = []

    def catch(event: Event) -> None:
        if isinstance(event, PeerMessage):
            hands.append(event.data)

    def throw() -> None:
        while hands:
            ball = int(hands.pop(0))
            if ball % 10_000 < 499:
                assert player.transport.send(BEN if other == BEN else ANA, Channel.DATA, b"%d" % (ball + 1))

    player.on_event = catch
    player.on_turn = throw


def _caught(player: Player) -> int:
    return sum(1 for event in player.events if isinstance(event, PeerMessage))


@played
async def test_a_swallowed_signal_is_found_right_after_the_send() -> None:
    """The edge is missed on purpose: a message has arrived, its signal is consumed by asking for events, and only
    then does Ana send. She must still read it at once, not at the next tick."""
    with stage() as s:
        ana, ben = await s.pair()
        link = ana.transport._peers[BEN].links[Channel.CTL]
        listener = ben.transport._listeners[Channel.CTL]
        assert ben.transport._peers[ANA].links[Channel.CTL].state.value == "up"
        ben.transport.undial(ANA)
        ben.lets_in(ANA)
        await s.sees(lambda: listener.has_node(ANA))
        assert ben.transport.send(ANA, Channel.CTL, b"unnoticed")
        while not int(link.socket.get(zmq.EVENTS)) & zmq.POLLIN:  # Consumes the signal once it has come.
            pass
        started = time.monotonic()
        assert ana.transport.send(BEN, Channel.CTL, b"swallows")
        await ana.hears(PeerMessage(BEN, b"unnoticed"))
        assert time.monotonic() - started < 0.04


@played
async def test_the_tick_finds_what_no_signal_announced() -> None:
    """The same, and nothing is sent afterwards: the tick turns the missed edge into a delay of about 50 ms."""
    with stage() as s:
        ana, ben = await s.pair()
        listener = ana.transport._listeners[Channel.CTL]
        assert ben.transport.send(ANA, Channel.CTL, b"unnoticed")
        while not int(listener.socket.get(zmq.EVENTS)) & zmq.POLLIN:
            pass
        await ana.hears(PeerMessage(BEN, b"unnoticed"), within_ms=1_000)


@played
async def test_a_turn_that_fails_is_gone_on_with() -> None:
    """What hears a message raises. The loop is told of the error; the messages behind it are delivered all the same."""
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context["exception"]))
    with stage() as s:
        ana, ben = await s.pair()

        def stumble(event: Event) -> None:
            if event == PeerMessage(ANA, b"stone"):
                raise RuntimeError("stumbled")

        ben.on_event = stumble
        for data in (b"before", b"stone", b"after"):
            ana.transport.send(BEN, Channel.DATA, data)
        await ben.hears(PeerMessage(ANA, b"after"))
        assert [str(error) for error in errors] == ["stumbled"]
