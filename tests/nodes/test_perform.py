"""The shell keeps the core's one condition: what promises something leaves only once the disk has it."""

import asyncio
from pathlib import Path

from mesh.effects import NOTHING, Channel, Effect, Notice, Send
from mesh.events import Event
from mesh.ids import NodeId, PersistToken
from mesh.storage.store import Store
from mesh.transport.handshake import Identity
from mesh.transport.zeromq import Transport
from nodes.agents import Agents
from nodes.perform import Performer

BEN = NodeId("ben")


def send(after: int) -> Effect:
    return Send(BEN, Channel.CTL, b"a vote", PersistToken(after))


def test_a_promise_is_held_until_its_token_is_durable(tmp_path: Path) -> None:
    """ben cannot be reached, so each send that leaves the shell is counted by the transport as lacking a link."""

    async def story() -> None:
        posted: list[Event] = []
        store = Store(tmp_path / "ana", node_id="ana", cluster="c", post=posted.append)
        identity = Identity(node_id="ana", cluster="c", incarnation=1, role="node", secret=None)
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
        performer = Performer(store, transport, agents, retire=lambda code, why: None)

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
        transport.close()
        store.close()

    asyncio.run(story())
