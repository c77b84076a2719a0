"""A worker of NATS JetStream: `nats_worker SLOTS`. Acknowledges a task once its result is on its way."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from nats.aio.msg import Msg
from nats.errors import Error
from nats.js.api import ConsumerConfig

from bench.compare.clients.nats_words import DURABLE, DURABLE_NAME, TASKS, connected
from bench.compare.clients.words import note

BATCH_MAX = 256
FETCH_S = 1.0
RETRY_S = 0.2
MAX_ACK_PENDING = 20_000


async def run(kind: str, body: dict[str, Any]) -> Any:
    if kind == "noop":
        return body
    note(body["log"], "s", body["n"])
    await asyncio.sleep(body["seconds"])
    note(body["log"], "e", body["n"])
    return body["n"]


async def main(slots: int) -> None:
    connection = await connected()
    js = connection.jetstream(publish_async_max_pending=MAX_ACK_PENDING)
    free = asyncio.Semaphore(slots)
    running: set[asyncio.Task[None]] = set()

    async def work(message: Msg) -> None:
        try:
            task = json.loads(message.data)
            result = json.dumps({"id": task["id"], "result": await run(task["kind"], task["body"])}).encode()
            if DURABLE:
                await js.publish(task["to"], result, headers={"Nats-Msg-Id": task["id"]})
            else:
                await connection.publish(task["to"], result)
            await message.ack()
        except Error as error:
            # Not acknowledged: it comes again.
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            free.release()

    subscription = None
    while True:
        # As many as there are slots for: whoever is killed has taken no more than that with it.
        await free.acquire()
        taken = 1
        while taken < BATCH_MAX and not free.locked():
            await free.acquire()
            taken += 1
        messages: list[Msg] = []
        try:
            if subscription is None:
                config = ConsumerConfig(max_ack_pending=MAX_ACK_PENDING)
                subscription = await js.pull_subscribe("tasks", durable=DURABLE_NAME, stream=TASKS, config=config)
                print("worker is ready", flush=True)
            messages = await subscription.fetch(taken, timeout=FETCH_S)
        except Error as error:
            # Nothing there, or the servers have no leader just now.
            await asyncio.sleep(0 if isinstance(error, TimeoutError) else RETRY_S)
        for _ in range(taken - len(messages)):
            free.release()
        for message in messages:
            one = asyncio.create_task(work(message))
            running.add(one)
            one.add_done_callback(running.discard)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
