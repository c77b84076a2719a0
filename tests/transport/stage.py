"""The stage the transport's tests play on: real sockets on loopback, a cast of nodes, and waiting without sleeping."""

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from mesh.admission import Roll
from mesh.config import PROTOCOL
from mesh.durable import Member
from mesh.effects import Channel
from mesh.events import Event, LinkDown, LinkUp
from mesh.ids import LogIndex, NodeId
from mesh.transport import CLIENT, NODE, ClientLink, Identity, Transport

ROOT = Path(__file__).parent.parent.parent
SECRET = b"sixteen bytes or more of it"
CLUSTER = "cast"
ANA, BEN, EVA = NodeId("ana"), NodeId("ben"), NodeId("eva")

_bases = itertools.cycle(range(20_000 + (os.getpid() * 40) % 9_900, 29_990, 10))

T = TypeVar("T")


def free_base() -> int:
    """The first of four ports nobody listens on, in 20000-29999."""
    for base in itertools.islice(_bases, 1_000):
        if all(_is_free(base + channel) for channel in Channel):
            return base
    raise AssertionError("no four free ports in 20000-29999")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As libzmq binds: a connection of an earlier test that is still fading away does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
    return True


def has_v6() -> bool:
    """Whether ::1 can be bound."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def played(story: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """A coroutine as a test: on a loop of its own, which ends well within the test's time limit."""

    @functools.wraps(story)
    def test() -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await story()

        asyncio.run(bounded())

    del test.__wrapped__  # pytest would look at its signature
    return test


class Audience:
    """Lets a test wait until something is so. Looks again whenever an event was delivered or a first was logged."""

    def __init__(self) -> None:
        self._stirred = asyncio.Event()

    def stir(self) -> None:
        self._stirred.set()

    async def sees(self, what: Callable[[], T], *, within_ms: int = 5_000) -> T:
        """Wait until `what()` is true; its value. Raises TimeoutError."""
        async with asyncio.timeout(within_ms / 1_000):
            while not (value := what()):
                await self._stirred.wait()
                self._stirred.clear()
        return value


class _Ear(logging.Handler):
    def __init__(self, audience: Audience) -> None:
        super().__init__()
        self._audience = audience

    def emit(self, record: logging.LogRecord) -> None:
        self._audience.stir()


class Player:
    """A node of the cast: its transport, and all it was told, in order."""

    def __init__(
        self,
        audience: Audience,
        name: str,
        base: int,
        *,
        incarnation: int = 1,
        cluster: str = CLUSTER,
        secret: bytes | None = None,
        host: str = "127.0.0.1",
        mark: str = "",
        protocol: int = PROTOCOL,
        advertise: str = "",
    ) -> None:
        self.name = NodeId(name)
        self.address = f"{host}:{base}"
        self.base = base
        self.member = Member(self.name, self.address, mark)
        self.events: list[Event] = []
        self.turns = 0
        self.on_event: Callable[[Event], None] = lambda event: None
        self.on_turn: Callable[[], None] = lambda: None
        self._audience = audience
        self.transport = Transport(
            Identity(
                node_id=name,
                cluster=cluster,
                incarnation=incarnation,
                role=NODE,
                secret=secret,
                mark=mark,
                protocol=protocol,
            ),
            bind=self.address,
            advertise=advertise or self.address,
            deliver=self._deliver,
            turn_ended=self._turn_ended,
            loop=asyncio.get_running_loop(),
        )

    def _deliver(self, event: Event) -> None:
        self.events.append(event)
        self.on_event(event)
        self._audience.stir()

    def _turn_ended(self) -> None:
        self.turns += 1
        self.on_turn()
        self._audience.stir()

    def dial(self, other: "Player") -> None:
        self.transport.dial(other.name, other.address)

    def lets_in(self, *names: NodeId) -> None:
        """By a roll that has these, and does not say where they are: they may dial, and are not dialled."""
        members = tuple(Member(name, "") for name in names)
        self.transport.admit(Roll(LogIndex(1), True, members), LogIndex(0))

    def told(self, kind: type[T]) -> list[T]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    async def hears(self, event: Event, *, times: int = 1, within_ms: int = 5_000) -> None:
        await self._audience.sees(lambda: self.events.count(event) >= times, within_ms=within_ms)

    async def sees_link_again(self, s: "Stage") -> None:
        """Wait until the last thing said about links is that one is up."""
        about = (LinkUp, LinkDown)
        await s.sees(lambda: isinstance([event for event in self.events if isinstance(event, about)][-1], LinkUp))

    async def counts(self, kind: str, *, within_ms: int = 5_000) -> None:
        """The first of a kind. (Only firsts are logged, and so only firsts can be waited for.)"""
        await self._audience.sees(lambda: kind in self.transport.counters, within_ms=within_ms)


class Caller:
    """A client of the cast."""

    def __init__(
        self,
        audience: Audience,
        address: str,
        *,
        cluster: str = "",
        secret: bytes | None = None,
        name: str = "cli",
        protocol: int = PROTOCOL,
    ) -> None:
        self.said: list[bytes] = []
        self.ups: list[tuple[NodeId, int]] = []
        self.downs: list[str] = []
        self._audience = audience
        self.link = ClientLink(
            address,
            Identity(node_id=name, cluster=cluster, incarnation=1, role=CLIENT, secret=secret, protocol=protocol),
            loop=asyncio.get_running_loop(),
            on_message=lambda data: self._note(self.said, data),
            on_up=lambda peer, incarnation: self._note(self.ups, (peer, incarnation)),
            on_down=lambda reason: self._note(self.downs, reason),
        )

    def _note(self, where: list[T], what: T) -> None:
        where.append(what)
        self._audience.stir()


def roll(index: int, *players: Player, is_committed: bool = True) -> Roll:
    """The one that has these, as they are and where they are."""
    return Roll(LogIndex(index), is_committed, tuple(player.member for player in players))


class Stage:
    """Makes players and callers, and sees them all off."""

    def __init__(self) -> None:
        self.audience = Audience()
        self._exits = contextlib.ExitStack()

    def node(
        self,
        name: str,
        *,
        base: int | None = None,
        incarnation: int = 1,
        cluster: str = CLUSTER,
        secret: bytes | None = None,
        bound: bool = True,
        host: str = "127.0.0.1",
        mark: str = "",
        protocol: int = PROTOCOL,
        advertise: str = "",
    ) -> Player:
        """A node that listens (or would) on `base`, or on ports nobody has."""
        player = Player(
            self.audience,
            name,
            base or free_base(),
            incarnation=incarnation,
            cluster=cluster,
            secret=secret,
            host=host,
            mark=mark,
            protocol=protocol,
            advertise=advertise,
        )
        self._exits.callback(player.transport.close)
        if bound:
            player.transport.bind()
        return player

    def client(
        self, address: str, *, cluster: str = "", secret: bytes | None = None, protocol: int = PROTOCOL
    ) -> Caller:
        caller = Caller(self.audience, address, cluster=cluster, secret=secret, protocol=protocol)
        self._exits.callback(caller.link.close)
        return caller

    def admit(self, index: int, *players: Player) -> None:
        """All of them follow the configuration at `index`, which has them and nobody else."""
        for player in players:
            player.transport.admit(roll(index, *players), LogIndex(index))

    async def pair(self, *, secret: bytes | None = None) -> tuple[Player, Player]:
        """Ana and Ben, linked both ways."""
        ana, ben = self.node("ana", secret=secret), self.node("ben", secret=secret)
        ana.dial(ben)
        ben.dial(ana)
        await ana.hears(LinkUp(BEN, 1))
        await ben.hears(LinkUp(ANA, 1))
        return ana, ben

    async def sees(self, what: Callable[[], T], *, within_ms: int = 5_000) -> T:
        return await self.audience.sees(what, within_ms=within_ms)

    def close(self) -> None:
        self._exits.close()


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """A stage for one story, swept afterwards. Use inside the loop."""
    made = Stage()
    log = logging.getLogger("mesh.transport")
    ear = _Ear(made.audience)
    log.addHandler(ear)
    try:
        yield made
    finally:
        made.close()
        log.removeHandler(ear)


@contextlib.asynccontextmanager
async def understudy(
    name: str, base: int, *, incarnation: int = 1, secret: bytes | None = None, dials: dict[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A node in a process of its own that echoes what it is sent. Serves when this returns; killed at the end."""
    dialled = [f"{peer}={address}" for peer, address in (dials or {}).items()]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.transport.understudy",
        name,
        str(base),
        str(incarnation),
        secret.hex() if secret is not None else "-",
        *dialled,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"serving\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def descriptors() -> list[str]:
    """What this process holds open, by kind, sorted."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(entry.readlink().name.split("[")[0] if entry.is_symlink() else "")
    return sorted(found)


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))
