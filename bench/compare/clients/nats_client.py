"""Client of NATS JetStream: publishes tasks and waits for their acknowledgement, then for the result."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

from nats.aio.msg import Msg
from nats.errors import Error
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError

from bench.compare.clients.nats_words import (
    DURABLE,
    RESULT_SUBJECTS,
    RESULTS,
    TASKS,
    connected,
    stream,
)
from bench.compare.clients.words import Client, End, check, payload, serve

BATCH = 256
MAKE_TIMEOUT_S = 30.0
MAKE_TRY_S = 1.0
RETRY_S = 0.2
MAX_ACK_PENDING = 20_000
ACK_TIMEOUT_S = 30.0


class OfNats(Client):
    packages = ("nats-py",)

    async def open(self) -> None:
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._mine = os.urandom(6).hex()
        self._nats = await connected()
        self._js = self._nats.jetstream(timeout=ACK_TIMEOUT_S, publish_async_max_pending=MAX_ACK_PENDING)
        await self._make(TASKS, "tasks")
        if DURABLE:
            await self._make(RESULTS, f"{RESULT_SUBJECTS}.>")
            self._reading = asyncio.create_task(self._read())
        else:
            await self._nats.subscribe(f"{RESULT_SUBJECTS}.{self._mine}", cb=self._heard)

    async def _make(self, name: str, subject: str) -> None:
        """The servers agree on a leader of their own first."""
        making = self._nats.jetstream(timeout=MAKE_TRY_S)
        deadline = time.monotonic() + MAKE_TIMEOUT_S
        while True:
            try:
                await making.add_stream(stream(name, subject))
                return
            except Error:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_S)

    async def _read(self) -> None:
        subscription = await self._js.pull_subscribe(
            f"{RESULT_SUBJECTS}.{self._mine}",
            durable=f"client-{self._mine}",
            stream=RESULTS,
            config=ConsumerConfig(max_ack_pending=MAX_ACK_PENDING),
        )
        while True:
            try:
                for message in await subscription.fetch(BATCH, timeout=1.0):
                    await self._heard(message)
                    await message.ack()
            except Error:
                await asyncio.sleep(0)

    async def _heard(self, message: Msg) -> None:
        result = json.loads(message.data)
        future = self._waiting.pop(result["id"], None)
        if future is not None and not future.done():
            future.set_result(result["result"])

    async def _submit(self, kind: str, body: dict[str, Any], timeout_s: float) -> asyncio.Future[Any]:
        name = os.urandom(12).hex()
        future = self._waiting[name] = asyncio.get_running_loop().create_future()
        task = {"id": name, "to": f"{RESULT_SUBJECTS}.{self._mine}", "kind": kind, "body": body}
        await self._js.publish("tasks", json.dumps(task).encode(), timeout=timeout_s, headers={"Nats-Msg-Id": name})
        return future

    async def one(self, number: int, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            check(number, await (await self._submit("noop", payload(number), timeout_s)))

    async def nap(self, number: int, seconds: float, log: str) -> End:
        body = {"n": number, "seconds": seconds, "log": log}
        future = await self._submit("nap", body, ACK_TIMEOUT_S)

        async def end(timeout_s: float) -> None:
            async with asyncio.timeout(timeout_s):
                await future

        return end

    async def held(self) -> int | None:
        try:
            return int((await self._js.stream_info(TASKS)).state.messages)
        except (NotFoundError, Error):
            return None

    async def leader(self) -> str | None:
        cluster = (await self._js.stream_info(TASKS)).cluster
        return None if cluster is None else cluster.leader

    async def server_versions(self) -> dict[str, str]:
        version = self._nats.connected_server_version
        return {"nats-server": ".".join(str(part) for part in (version.major, version.minor, version.patch))}


if __name__ == "__main__":
    serve(OfNats())
