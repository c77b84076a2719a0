"""Reads all sockets of a transport, in order of importance, once per loop turn.

A zmq socket's descriptor signals edges: it can be silent while messages wait, above all after a send, which swallows
the signal. So a socket is read until it says there is nothing, every socket that was sent on is asked again afterwards,
and a slow tick asks all of them, which turns an edge missed all the same into a delay instead of a hang.

Source: libzmq zmq_getsockopt(3), ZMQ_FD; measured alternatives in the research on ZeroMQ, A.3.
"""

import asyncio
import selectors
from collections.abc import Callable
from typing import Protocol

import zmq

BUDGET = 256
"""Messages read from one socket before the others and the timers get their turn."""

TICK_MS = 50

_POLLIN = int(zmq.POLLIN)


class Source(Protocol):
    """Something with a socket to read."""

    socket: "zmq.Socket[bytes]"
    rank: int
    """Lower is read first: 0 monitors, 1 control, 2 data, 3 gossip, 4 bulk."""

    def drain(self, budget: int) -> bool:
        """Read up to `budget` messages; False only once the socket said there are no more."""
        ...


class Pump:
    """Owns nothing but the order of reading. Use from the loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, turn_ended: Callable[[], None]) -> None:
        """`turn_ended` is called after everything readable was read, if any of it was reported with `told`."""
        self._loop = loop
        self._turn_ended = turn_ended
        self._selector = selectors.DefaultSelector()
        self._descriptors: dict[Source, int] = {}
        self._again: dict[Source, None] = {}
        self._sent: dict[Source, None] = {}
        self._told = False
        self._turning = False
        self._scheduled = False
        self._closed = False
        loop.add_reader(self._selector.fileno(), self._signalled)
        self._tick = loop.call_later(TICK_MS / 1_000, self._ticked)

    def watch(self, source: Source) -> None:
        """Read `source` from now on. What waits in it already is read on the next turn."""
        descriptor = int(source.socket.get(zmq.FD))
        self._selector.register(descriptor, selectors.EVENT_READ, source)
        self._descriptors[source] = descriptor
        self.again(source)

    def unwatch(self, source: Source) -> None:
        """Before its socket is closed."""
        self._selector.unregister(self._descriptors.pop(source))
        self._again.pop(source, None)
        self._sent.pop(source, None)

    def again(self, source: Source) -> None:
        """Read `source` in the next turn, whatever its descriptor says."""
        self._again[source] = None
        self._schedule()

    def sent(self, source: Source) -> None:
        """Something was sent on it, so its descriptor may be silent though messages wait."""
        self._sent[source] = None
        if not self._turning and not self._scheduled:
            self._schedule()

    def told(self) -> None:
        """Something was handed on: this turn, or one scheduled now, has an end to announce."""
        self._told = True
        if not self._turning and not self._scheduled:
            self._schedule()

    def close(self) -> None:
        """After every source is unwatched."""
        self._closed = True
        self._tick.cancel()
        self._loop.remove_reader(self._selector.fileno())
        self._selector.close()

    def _schedule(self) -> None:
        if not self._scheduled and not self._closed:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _signalled(self) -> None:
        """A turn that is scheduled will do: one more for every signal would, under a flood, schedule one more in every
        round of the loop, and keep it from its timers for longer and longer."""
        if not self._scheduled:
            self._turn()

    def _turn(self) -> None:
        if self._closed:
            return
        self._scheduled = False
        self._turning = True
        try:
            for source in self._waiting():
                if source not in self._descriptors:
                    continue  # One read before it closed it.
                self._again[source] = None  # Stays, should what follows fail.
                if not source.drain(BUDGET):
                    self._again.pop(source, None)
            if self._told and not self._closed:
                self._told = False
                self._turn_ended()
        finally:
            self._turning = False
            self._ask_senders()
            if self._again or self._told:
                self._schedule()

    def _waiting(self) -> list[Source]:
        found: dict[Source, None] = {key.data: None for key, _ in self._selector.select(0)} | self._again
        return sorted(found, key=lambda source: source.rank) if len(found) > 1 else list(found)

    def _ask_senders(self) -> None:
        for source in self._sent:
            if _readable(source):
                self._again[source] = None
        self._sent.clear()

    def _ticked(self) -> None:
        for source in self._descriptors:
            if _readable(source):
                self.again(source)
        self._tick = self._loop.call_later(TICK_MS / 1_000, self._ticked)


def _readable(source: Source) -> bool:
    return int(source.socket.get(zmq.EVENTS)) & _POLLIN != 0
