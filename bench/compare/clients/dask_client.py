"""Client of Dask: `dask_client ADDRESS`. What it submits is in dask_tasks.py, so that workers can import it."""

from __future__ import annotations

import asyncio
import sys

from distributed import Client as DaskClient

from bench.compare.clients.dask_tasks import nap, noop
from bench.compare.clients.words import Client, End, check, payload, serve


class OfDask(Client):
    packages = ("distributed", "dask")

    async def open(self) -> None:
        self._dask = await DaskClient(sys.argv[1], asynchronous=True, set_as_default=False)

    async def one(self, number: int, timeout_s: float) -> None:
        future = self._dask.submit(noop, payload(number), pure=False)
        async with asyncio.timeout(timeout_s):
            check(number, await future)

    async def nap(self, number: int, seconds: float, log: str) -> End:
        future = self._dask.submit(nap, number, seconds, log, pure=False)

        async def end(timeout_s: float) -> None:
            async with asyncio.timeout(timeout_s):
                await future

        return end


if __name__ == "__main__":
    serve(OfDask())
