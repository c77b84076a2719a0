"""The client process of one system, as seen from here: one request at a time, each with a bound."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from bench.compare.stage import DidNotStart, Stage, kill_tree

OPEN_TIMEOUT_S = 60.0
_encode = msgspec.json.encode


class Failed(Exception):
    """One sentence: what a client was asked for and did not do."""


class Answer(msgspec.Struct):
    """Everything a client may answer (see clients/words.py); a request fills one field, or `error`."""

    seconds: float | None = None
    ms: list[float] = []
    accepted: list[int] = []
    ended: int = 0
    held: int | None = None
    leader: str | None = None
    versions: dict[str, str] = {}
    error: str = ""


_decode = msgspec.json.Decoder(Answer).decode


class ClientProcess:
    """Made by `open_client`."""

    def __init__(self, stage: Stage, process: asyncio.subprocess.Process) -> None:
        self._stage = stage
        self._process = process

    async def ask(self, do: str, bound_s: float, /, **words: Any) -> Answer:
        """`words` go with the request. Raises Failed: it says so, needs longer than `bound_s`, or has ended."""
        assert self._process.stdin is not None, "stdin is a pipe"
        try:
            self._process.stdin.write(_encode({"do": do, **words}) + b"\n")
            async with asyncio.timeout(bound_s):
                answer = await self.hear()
        except TimeoutError:
            raise Failed(f"{do}: nothing within {bound_s:g} s") from None
        except OSError:
            raise Failed(f"{do}: the client has ended{self._stage.last_words('client')}") from None
        if answer.error:
            raise Failed(f"{do}: {answer.error}")
        return answer

    async def hear(self) -> Answer:
        """The next answer. Raises Failed if it ends instead."""
        assert self._process.stdout is not None, "stdout is a pipe"
        line = await self._process.stdout.readline()
        if not line:
            raise Failed(f"the client has ended{self._stage.last_words('client')}")
        return _decode(line)

    async def close(self) -> None:
        await kill_tree(self._process)


async def open_client(stage: Stage, argv: list[str], env: dict[str, str]) -> ClientProcess:
    """Start it and wait until it is connected. Raises DidNotStart."""
    process = await stage.spawn("client", argv, env, talks=True)
    client = ClientProcess(stage, process)
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            await client.hear()
    except (TimeoutError, Failed) as error:
        await client.close()
        raise DidNotStart(str(error) or f"the client did not connect within {OPEN_TIMEOUT_S:g} s") from None
    return client
