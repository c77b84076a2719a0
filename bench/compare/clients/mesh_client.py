"""Client of a mesh: `mesh_client PEERS`."""

from __future__ import annotations

import sys

from bench.compare.clients.words import Client, End, check, payload, serve
from mesh.client import MeshClient, connect


class OfMesh(Client):
    packages = ("pyzmq", "msgspec")

    async def open(self) -> None:
        self._mesh: MeshClient = await connect(sys.argv[1])

    async def one(self, number: int, timeout_s: float) -> None:
        handle = await self._mesh.submit("noop", payload(number), timeout=timeout_s)
        check(number, await handle.result(timeout=timeout_s))

    async def nap(self, number: int, seconds: float, log: str) -> End:
        handle = await self._mesh.submit("nap", {"n": number, "seconds": seconds, "log": log})

        async def end(timeout_s: float) -> None:
            await handle.result(timeout=timeout_s)

        return end

    async def held(self) -> int | None:
        tasks = (await self._mesh.status()).tasks
        return tasks.pending + tasks.scheduled + tasks.running + tasks.paused + tasks.dead


if __name__ == "__main__":
    serve(OfMesh())
