"""A node in its own process, to be killed: echoes to peers and clients. Run by stage.understudy.

What is longer than half a megabyte is only taken in. `pause S` keeps the loop from everything for so many seconds.
"""

import asyncio
import sys
import time

from mesh.admission import Roll
from mesh.durable import Member
from mesh.effects import Channel
from mesh.events import ClientMessage, Event, PeerMessage
from mesh.ids import LogIndex, NodeId
from mesh.transport import NODE, Identity, Transport
from tests.transport.stage import CLUSTER


async def serve(name: str, base: str, incarnation: str, secret: str, *dials: str) -> None:
    def deliver(event: Event) -> None:
        if isinstance(event, PeerMessage) and event.data.startswith(b"pause "):
            time.sleep(float(event.data[6:]))
        elif isinstance(event, PeerMessage) and len(event.data) < 1 << 19:
            transport.send(event.peer, Channel.DATA, event.data)
        elif isinstance(event, ClientMessage):
            transport.reply(event.client, event.data)

    transport = Transport(
        Identity(
            node_id=name,
            cluster=CLUSTER,
            incarnation=int(incarnation),
            role=NODE,
            secret=None if secret == "-" else bytes.fromhex(secret),
        ),
        bind=f"127.0.0.1:{base}",
        advertise=f"127.0.0.1:{base}",
        deliver=deliver,
        turn_ended=lambda: None,
        loop=asyncio.get_running_loop(),
    )
    transport.bind()
    transport.admit(Roll(LogIndex(1), True, (Member(NodeId("ana"), ""),)), LogIndex(0))
    for peer, address in (dial.split("=") for dial in dials):
        transport.dial(NodeId(peer), address)
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
