"""The shell keeps the core's one condition: what promises something leaves only once the disk has it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.admission import Roll
from mesh.durable import Member
from mesh.effects import NOTHING, Admit, Channel, Effect, Notice, Retire, Send
from mesh.events import Event
from mesh.ids import LogIndex, NodeId, PersistToken
from mesh.storage.store import Store
from mesh.transport.handshake import Identity
from mesh.transport.zeromq import Transport
from nodes.agents import Agents
from nodes.perform import Performer

BEN = NodeId("ben")


@contextmanager
def performing(tmp_path: Path) -> Iterator[tuple[Performer, Transport, list[tuple[int, str]]]]:
    """Ana's performer, her transport, and the ends she was asked for."""
    posted: list[Event] = []
    ended: list[tuple[int, str]] = []
    store = Store(tmp_path / "ana", node_id="ana", cluster="c", post=posted.append)
    identity = Identity(node_id="ana", cluster="c", incarnation=1, role="node", secret=None, mark="a")
    transport = Transport(
        identity,
        bind="127.0.0.1:21000",
        advertise="127.0.0.1:21000",
        deliver=posted.append,
        turn_ended=lambda: None,
        loop=asyncio.get_running_loop(),
    )
    agents = Agents(
        (), node_id="ana", slots=1, post=posted.append, turn_ended=lambda: None, peer_address="127.0.0.1:21000"
    )
    yield Performer(store, transport, agents, retire=lambda code, why: ended.append((code, why))), transport, ended
    transport.close()
    store.close()


def send(after: int) -> Effect:
    return Send(BEN, Channel.CTL, b"a vote", PersistToken(after))


def test_a_promise_is_held_until_its_token_is_durable(tmp_path: Path) -> None:
    """ben cannot be reached, so each send that leaves the shell is counted by the transport as lacking a link."""

    async def story() -> None:
        with performing(tmp_path) as (performer, transport, _):

            def left() -> int:
                return transport.counters.get("no_link", 0)

            performer.perform([send(1), send(2), send(NOTHING), Notice("code", "detail")])
            assert left() == 1, "only the one that waits for nothing"
            performer.durable(1)
            assert left() == 2
            performer.perform([send(1), send(3)])
            assert left() == 3, "token 1 is durable already, 3 is not"
            performer.durable(3)
            assert left() == 5, "2 and 3 became durable together"

    asyncio.run(story())


def test_whom_to_admit_is_told_to_the_transport_and_an_end_to_whoever_ends_it(tmp_path: Path) -> None:
    """Ben, a member from now on, is dialled; his address will not do, which the transport counts."""

    async def story() -> None:
        with performing(tmp_path) as (performer, transport, ended):
            members = (Member(NodeId("ana"), "127.0.0.1:21000", "a"), Member(BEN, "nowhere", "b"))
            performer.perform([Admit(Roll(LogIndex(7), True, members), LogIndex(7)), Retire(1, "for a reason")])
            assert ended == [(1, "for a reason")]
            assert transport.counters == {"bad_address": 1}

    asyncio.run(story())
