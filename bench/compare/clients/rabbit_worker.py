"""A worker of RabbitMQ: `rabbit_worker SLOTS FIRST`, FIRST being the server it tries first."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from bench.compare.clients.rabbit_words import QUEUE_OPTIONS, RETRY_S, TASKS, Line
from bench.compare.clients.words import note

WATCH_S = 0.2


async def run(kind: str, body: dict[str, Any]) -> Any:
    if kind == "noop":
        return body
    note(body["log"], "s", body["n"])
    await asyncio.sleep(body["seconds"])
    note(body["log"], "e", body["n"])
    return body["n"]


async def main(slots: int, first: int) -> None:
    async def work(message: AbstractIncomingMessage) -> None:
        task = json.loads(message.body)
        result = json.dumps(await run(task["kind"], task["body"])).encode()
        try:
            await line.send(message.reply_to or "", result, correlation_id=message.correlation_id or "")
            await message.ack()
        except Exception:
            # Not acknowledged: it comes again.
            traceback.print_exc()

    async def prepare(channel: AbstractChannel) -> None:
        await channel.set_qos(prefetch_count=slots)
        tasks = await channel.declare_queue(TASKS, **QUEUE_OPTIONS)
        await tasks.consume(work)

    line = Line(first, prepare)
    while True:
        try:
            await line.channel()
            await asyncio.sleep(WATCH_S)
        except Exception:
            traceback.print_exc()
            await asyncio.sleep(RETRY_S)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
