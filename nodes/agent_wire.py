"""What a node and its agent processes say to each other, and the socket they say it through.

A frame is a 4-byte big-endian length and that many bytes of MessagePack: a list of words. All that one turn of the
event loop has to say leaves as one frame. Both ends run an asyncio loop and use the same `Wire`.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeAlias, TypeVar

import msgspec

from mesh.ids import FencingToken, TaskId
from mesh.messages import AttemptOrder, AttemptOutcome, Lease

FRAME_BYTES_MAX = 8 << 20
"""A longer frame is rubbish, and ends the connection."""

UNSENT_BYTES_MAX = 64 << 20
"""With more than this unsent, `Wire.full` asks for patience."""

_HEADER_BYTES = 4
_READ_BYTES = 256 << 10
"""Read at once, at most, so that one talkative process does not keep the loop from others."""


class _Word(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


# --- node to agent process --------------------------------------------------------------------------------------------


class Run(_Word, frozen=True, tag=1):
    orders: list[AttemptOrder]


class Stop(_Word, frozen=True, tag=2):
    """These attempts no longer hold their tasks."""

    leases: list[Lease]


class Kept(_Word, frozen=True, tag=3):
    """What became of a checkpoint."""

    task_id: TaskId
    token: FencingToken
    sequence: int
    kept: bool


class Leave(_Word, frozen=True, tag=4):
    """Cancel everything and exit when it has ended, or after `grace_ms`."""

    grace_ms: int


class Ping(_Word, frozen=True, tag=5):
    """Does your event loop turn? Answered by Pong."""


# --- agent process to node --------------------------------------------------------------------------------------------


class Hello(_Word, frozen=True, tag=11):
    """The apps are loaded: (capability, where it runs: loop, thread or process; version, empty if it has none)."""

    offers: list[tuple[str, str, str]]


class Refusal(_Word, frozen=True, tag=12):
    """The apps cannot be loaded: why, in a sentence, and the traceback's end."""

    sentence: str


class Began(_Word, frozen=True, tag=13):
    """Attempts that have been running for a little while."""

    leases: list[Lease]


class Offered(_Word, frozen=True, tag=14):
    """A checkpoint to keep."""

    task_id: TaskId
    token: FencingToken
    sequence: int
    state: bytes


class Ended(_Word, frozen=True, tag=15):
    outcomes: list[AttemptOutcome]


class Pong(_Word, frozen=True, tag=16):
    """It turns."""


class Stopped(_Word, frozen=True, tag=17):
    """No code of these attempts, which were to be stopped, runs any more."""

    leases: list[Lease]


class Stuck(_Word, frozen=True, tag=18):
    """Code of attempts that were stopped does not end: only the end of this process can end it."""


NodeWord: TypeAlias = Run | Stop | Kept | Leave | Ping
AgentWord: TypeAlias = Hello | Refusal | Began | Offered | Ended | Pong | Stopped | Stuck

_Heard = TypeVar("_Heard", bound=NodeWord | AgentWord)
_Said = TypeVar("_Said", bound=NodeWord | AgentWord)

from_node: Callable[[memoryview], list[NodeWord]] = msgspec.msgpack.Decoder(list[NodeWord]).decode
from_agent: Callable[[memoryview], list[AgentWord]] = msgspec.msgpack.Decoder(list[AgentWord]).decode
_encode = msgspec.msgpack.Encoder().encode


class Rubbish(Exception):
    """Bytes the other end cannot have meant."""


# --- frames -----------------------------------------------------------------------------------------------------------


def frames(words: Sequence[NodeWord | AgentWord]) -> Iterator[bytes]:
    """The words as frames, header included: one, unless it would be over FRAME_BYTES_MAX.

    Words are cut between their orders, outcomes and so on; nothing smaller may be near FRAME_BYTES_MAX.
    """
    data = _encode(words)
    if len(data) <= FRAME_BYTES_MAX:
        yield len(data).to_bytes(_HEADER_BYTES, "big") + data
    elif len(words) > 1:
        middle = len(words) // 2
        yield from frames(words[:middle])
        yield from frames(words[middle:])
    else:
        for half in _halves(words[0]):
            yield from frames([half])


def _halves(word: NodeWord | AgentWord) -> list[NodeWord | AgentWord]:
    match word:
        case Run(orders) if len(orders) > 1:
            middle = len(orders) // 2
            return [Run(orders[:middle]), Run(orders[middle:])]
        case Ended(outcomes) if len(outcomes) > 1:
            middle = len(outcomes) // 2
            return [Ended(outcomes[:middle]), Ended(outcomes[middle:])]
    raise AssertionError(f"one {type(word).__name__} alone is over {FRAME_BYTES_MAX} bytes")


class FrameReader(Generic[_Heard]):
    """Bytes as they come, in; words, out."""

    def __init__(self, decode: Callable[[memoryview], list[_Heard]]) -> None:
        self._decode = decode
        self._bytes = bytearray(_READ_BYTES)
        self._filled = 0

    def room(self) -> memoryview:
        """Where to put the next bytes; never empty. Release it before calling `received`."""
        return memoryview(self._bytes)[self._filled : self._filled + _READ_BYTES]

    def received(self, count: int) -> list[_Heard]:
        """Count the bytes just put into `room` and return the words they complete. Raises Rubbish."""
        self._filled += count
        words: list[_Heard] = []
        start = 0
        needed = _HEADER_BYTES
        with memoryview(self._bytes) as view:
            while self._filled - start >= _HEADER_BYTES:
                length = int.from_bytes(view[start : start + _HEADER_BYTES], "big")
                if length > FRAME_BYTES_MAX:
                    raise Rubbish(f"a frame of {length} bytes, at most {FRAME_BYTES_MAX} are meant")
                needed = _HEADER_BYTES + length
                if self._filled - start < needed:
                    break
                with view[start + _HEADER_BYTES : start + needed] as frame:
                    words += self._words(frame)
                start += needed
                needed = _HEADER_BYTES
        self._keep_from(start, needed)
        return words

    def _words(self, frame: memoryview) -> list[_Heard]:
        try:
            return self._decode(frame)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Rubbish(str(error)) from None

    def _keep_from(self, start: int, needed: int) -> None:
        """Move the unread tail to the front, of a buffer as large as what is needed next."""
        tail = self._filled - start
        size = max(_READ_BYTES, needed)
        if size != len(self._bytes):
            fresh = bytearray(size)
            fresh[:tail] = self._bytes[start : self._filled]
            self._bytes = fresh
        elif start and tail:
            self._bytes[:tail] = self._bytes[start : self._filled]
        self._filled = tail


# --- the connection ---------------------------------------------------------------------------------------------------


class Wire(Generic[_Heard, _Said]):
    """One end of the socket, on an event loop.

    `heard(words)` is called with what one read completed; `gather()` is asked what there is to say, once per loop turn
    in which `wake` was called; `drained()` comes when it is no longer `full`; `closed(reason)` comes once, when the
    other end is gone or speaks rubbish. Nothing is called after `close`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        decode: Callable[[memoryview], list[_Heard]],
        *,
        heard: Callable[[list[_Heard]], None],
        gather: Callable[[], list[_Said]],
        closed: Callable[[str], None],
        drained: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._reader: FrameReader[_Heard] = FrameReader(decode)
        self._heard = heard
        self._gather = gather
        self._closed = closed
        self._drained = drained
        self._unsent: deque[memoryview] = deque()
        self.unsent_bytes = 0
        self._awake = False
        self._writing = False
        self.open = True
        sock.setblocking(False)
        loop.add_reader(sock, self.read)

    @property
    def full(self) -> bool:
        """The other end reads so slowly that what can wait should."""
        return self.unsent_bytes > UNSENT_BYTES_MAX

    def wake(self) -> None:
        """There is something to say: `gather` it at the end of this turn."""
        if not self._awake:
            self._awake = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Gather and send now."""
        self._awake = False
        if not self.open:
            return
        words = self._gather()
        if words:
            for frame in frames(words):
                self._unsent.append(memoryview(frame))
                self.unsent_bytes += len(frame)
            self._send()

    def _send(self) -> None:
        """Write until all is sent or the socket takes no more; then go on when it does."""
        was_full = self.full
        try:
            while self._unsent:
                sent = self._sock.send(self._unsent[0])
                self.unsent_bytes -= sent
                if sent == len(self._unsent[0]):
                    self._unsent.popleft()
                else:
                    self._unsent[0] = self._unsent[0][sent:]
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._sock, self._send)
        except OSError as error:
            self._lost(str(error))
            return
        else:
            if self._writing:
                self._writing = False
                self._loop.remove_writer(self._sock)
        if was_full and not self.full:
            self._drained()

    def read(self) -> bool:
        """Read once. False if there was nothing, or the other end is gone."""
        if not self.open:
            return False
        try:
            with self._reader.room() as room:
                count = self._sock.recv_into(room)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._lost(str(error))
            return False
        if not count:
            self._lost("closed")
            return False
        try:
            words = self._reader.received(count)
        except Rubbish as rubbish:
            self._lost(f"rubbish: {rubbish}")
            return False
        if words:
            self._heard(words)
        return True

    def _lost(self, reason: str) -> None:
        if self.open:
            self.close()
            self._closed(reason)

    def close(self) -> None:
        if self.open:
            self.open = False
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self._unsent.clear()
