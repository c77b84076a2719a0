"""Talking to a mesh from a command: one connection, one time limit, and reads that do without a quorum if they must."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nodes.cli.command import CONNECT_TIMEOUT_S, Shared
from nodes.cli.printing import say

if TYPE_CHECKING:
    from mesh.client import MeshClient

_Document = TypeVar("_Document")
_Command = TypeVar("_Command", bound=Callable[..., Any])

AS_ONE_NODE_KNOWS = "this is what one node knows, and may be out of date"

QUORUM_PATIENCE_S = 3.0
"""How long a read waits for a quorum before it takes what one node knows: longer than an election."""


def talk(shared: Shared, work: Callable[[MeshClient], Awaitable[int]]) -> int:
    """Connect, do the work, close. Answers with the exit code."""
    return asyncio.run(_talk(shared, work))


async def _talk(shared: Shared, work: Callable[[MeshClient], Awaitable[int]]) -> int:
    from mesh.client import connect
    from mesh.errors import MeshUnavailable

    try:
        mesh = await connect(
            shared.peer, secret_file=shared.secret_file, timeout=min(shared.timeout_s, CONNECT_TIMEOUT_S)
        )
    except OSError as error:
        raise click.UsageError(f"the secret file {shared.secret_file} cannot be read: {error.strerror}") from None
    except MeshUnavailable as error:
        raise MeshUnavailable(f'{error}; start a mesh with "mesh up", or name a node of one with --peer') from None
    async with mesh:
        return await work(mesh)


def stale_option() -> Callable[[_Command], _Command]:
    """`--stale`, for commands that read."""
    return click.option("--stale", is_flag=True, help="Ask one node alone, the first that is reached, and no quorum.")


async def read(shared: Shared, ask: Callable[[bool, float], Awaitable[_Document]], *, stale: bool = False) -> _Document:
    """Ask a question (`stale`, seconds); if there is no quorum, say so and take what one node knows.

    `stale`: what one node knows is all that is wanted.
    """
    from mesh.errors import MeshUnavailable

    if stale:
        document = await ask(True, shared.left_s())
        say(AS_ONE_NODE_KNOWS)
        return document
    try:
        return await ask(False, min(QUORUM_PATIENCE_S, shared.left_s() / 2))
    except MeshUnavailable:
        document = await ask(True, shared.left_s())
        say(f"no quorum: {AS_ONE_NODE_KNOWS}")
        return document
