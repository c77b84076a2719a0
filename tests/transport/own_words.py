"""A node that dials a port of the ephemeral range until it is connected with itself. Run in a network namespace of its
own, whose range is a few ports wide; prints what it was told and what it counted.
"""

import asyncio
import json

from mesh.events import Event
from mesh.ids import NodeId
from mesh.transport import NODE, Identity, Transport, address


async def alone(base: int) -> None:
    address.PORT_BASE_MAX = 65_000  # Else such a port is refused, which is the cure.
    told: list[Event] = []
    ana = Transport(
        Identity(node_id="ana", cluster="cast", incarnation=1, role=NODE, secret=None),
        bind="127.0.0.1:20000",
        advertise="127.0.0.1:20000",
        deliver=told.append,
        turn_ended=lambda: None,
        loop=asyncio.get_running_loop(),
    )
    ana.dial(NodeId("eva"), f"127.0.0.1:{base}")
    while "own_words" not in ana.counters:
        await asyncio.sleep(0.01)
    print(json.dumps([len(told), ana.counters]))
    ana.close()


if __name__ == "__main__":
    asyncio.run(alone(40_000))
