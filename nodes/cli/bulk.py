"""Doing one thing to several tasks: what was done, what was refused, and an exit code that tells them apart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import click

from nodes.cli.command import OK, PARTIAL, Shared, exit_code_of
from nodes.cli.printing import print_json, say

AT_ONCE_MAX = 64


async def each(shared: Shared, done: str, task_ids: Sequence[str], act: Callable[[str], Awaitable[None]]) -> int:
    """Act on every id. `done` is the past tense of it: the key in the JSON document, the word on the terminal.

    One id alone that is refused is an error of its own kind (3 not found, 6 refused); of several, some refused is 7.
    """
    from mesh.errors import MeshError

    gate = asyncio.Semaphore(AT_ONCE_MAX)

    async def one(task_id: str) -> MeshError | None:
        async with gate:
            try:
                await act(task_id)
            except MeshError as error:
                return error
        return None

    results = await asyncio.gather(*(one(task_id) for task_id in task_ids))
    refused = [(task_id, error) for task_id, error in zip(task_ids, results, strict=True) if error is not None]
    acted = [task_id for task_id, error in zip(task_ids, results, strict=True) if error is None]
    if len(task_ids) == 1 and refused:
        raise refused[0][1]
    if shared.as_json:
        print_json({done: acted, "refused": [{"id": task_id, "why": str(error)} for task_id, error in refused]})
    else:
        for task_id in acted:
            click.echo(f"{done} {task_id}")
        for task_id, error in refused:
            say(f"{task_id}: {error}")
    if not refused:
        return OK
    return PARTIAL if acted else exit_code_of(refused[0][1])
