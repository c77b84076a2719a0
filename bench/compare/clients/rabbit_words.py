"""What client and workers of RabbitMQ share. BENCH_SERVERS are the servers, BENCH_MODE what queues there are.

Fast: one server, a classic queue, transient messages, publishes not confirmed, results in a queue of the client alone.
Durable: three servers, quorum queues for tasks and for results, every publish confirmed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection

SERVERS = os.environ["BENCH_SERVERS"].split(",")
DURABLE = os.environ["BENCH_MODE"] == "durable"
TASKS = "tasks"
CONNECT_TIMEOUT_S = 5.0
RETRY_S = 0.1

QUEUE_OPTIONS = {"durable": DURABLE, "arguments": {"x-queue-type": "quorum"} if DURABLE else None}


class Line:
    """A connection to whichever server answers, opened again whenever it is needed and not there."""

    def __init__(self, first: int, prepare: Callable[[AbstractChannel], Awaitable[None]]) -> None:
        """`prepare` declares and subscribes on every new channel."""
        self._next = first
        self._prepare = prepare
        self._opening = asyncio.Lock()
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self.server = -1

    async def channel(self) -> AbstractChannel:
        """Tries one server; raises if that one does not answer, and tries the next when it is asked again."""
        if self._channel is not None and self._is_up():
            return self._channel
        async with self._opening:
            if self._channel is None or not self._is_up():
                await self._open()
            assert self._channel is not None, "it was opened"
            return self._channel

    def _is_up(self) -> bool:
        return not (
            self._connection is None or self._connection.is_closed or self._channel is None or self._channel.is_closed
        )

    async def _open(self) -> None:
        number, self._next = self._next, (self._next + 1) % len(SERVERS)
        if self._connection is not None and not self._connection.is_closed:
            await self._connection.close()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            self._connection = await aio_pika.connect(SERVERS[number])
            channel = await self._connection.channel(publisher_confirms=DURABLE)
            await self._prepare(channel)
        self._channel = channel
        self.server = number

    @property
    def properties(self) -> dict[str, object]:
        """What the server says about itself."""
        assert self._connection is not None and self._connection.transport is not None, "it was opened"
        return dict(self._connection.transport.connection.server_properties)

    async def send(self, queue: str, body: bytes, **properties: str) -> None:
        """Durable: returns once the queue has it."""
        channel = await self.channel()
        mode = aio_pika.DeliveryMode.PERSISTENT if DURABLE else aio_pika.DeliveryMode.NOT_PERSISTENT
        message = aio_pika.Message(body, delivery_mode=mode, **properties)
        await channel.default_exchange.publish(message, routing_key=queue, mandatory=False)
