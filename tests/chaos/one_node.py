"""Ask one node, and nobody else, what it knows. A client of the mesh would rather ask the leader."""

import asyncio
import secrets
from pathlib import Path
from typing import TypeVar

import msgspec

from mesh.errors import MeshUnavailable
from mesh.messages import Answer, Ask, Question
from mesh.transport.client_link import ClientLink
from mesh.transport.handshake import Identity
from mesh.wire.codec import decode_reply, encode

_Document = TypeVar("_Document")


class OneNode:
    """One link, one question at a time. Close it."""

    def __init__(self, address: str, secret_file: Path) -> None:
        loop = asyncio.get_running_loop()
        self._address = address
        self._up: asyncio.Future[None] = loop.create_future()
        self._answer: asyncio.Future[Answer] = loop.create_future()
        identity = Identity(
            node_id=f"client-{secrets.token_hex(8)}",
            cluster="",
            incarnation=secrets.randbits(48),
            role="client",
            secret=secret_file.read_bytes().strip(),
        )
        self._link = ClientLink(
            address,
            identity,
            loop=loop,
            on_message=self._on_message,
            on_up=lambda *_: None if self._up.done() else self._up.set_result(None),
            on_down=lambda _: None,
        )

    async def ask(self, kind: type[_Document], question: Question, timeout_s: float) -> _Document:
        """Raises MeshUnavailable when the node does not answer in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._up
                self._answer = asyncio.get_running_loop().create_future()
                self._link.send(encode(Ask(1, question, True)))
                answer = await self._answer
        except TimeoutError:
            raise MeshUnavailable(f"{self._address} did not answer within {timeout_s:g} s") from None
        return msgspec.msgpack.decode(answer.body, type=kind)

    def close(self) -> None:
        self._link.close()

    def _on_message(self, data: bytes) -> None:
        message = decode_reply(data)
        if isinstance(message, Answer) and not self._answer.done():
            self._answer.set_result(message)
