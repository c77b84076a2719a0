"""Doing one thing to several tasks: what was done, what was refused, and an exit code that tells them apart."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import click

from nodes.cli.command import OK, PARTIAL, REFUSED, Shared, exit_code_of
from nodes.cli.printing import clean, print_json, say

if TYPE_CHECKING:
    from mesh.documents import Touched

AT_ONCE_MAX = 64
NAMED_MAX = 5
"""Ids in one sentence."""
TOO_LATE = "it had ended by then"


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


def be_sure(what: str, count: int, yes: bool) -> None:
    """Ask, before several tasks are touched, unless told not to. Raises a usage error where nobody can be asked."""
    if count <= 1 or yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError(f"{count:,} tasks match; say --yes to {what} them all")
    click.confirm(f"{what} {count:,} tasks?", abort=True, err=True)


def print_touched(shared: Shared, done: str, touched: Touched, *, with_dependents: bool = False) -> int:
    """What an order for many tasks has done, and the exit code. `with_dependents`: it took them along."""
    too_late = frozenset(touched.missed)
    ids = [task_id for task_id in touched.ids if task_id not in too_late]
    if shared.as_json:
        print_json(
            {
                done: ids,
                "refused": [{"id": task_id, "why": TOO_LATE} for task_id in touched.missed],
                "count": touched.count,
                "dependents": touched.dependents,
            }
        )
    else:
        for task_id in ids:
            click.echo(clean(f"{done} {task_id}"))
        for task_id in touched.missed:
            say(f"{task_id}: {TOO_LATE}")
        _say_count(done, len(ids), touched, with_dependents)
    if not touched.missed:
        return OK
    return PARTIAL if touched.count else REFUSED


def print_would(shared: Shared, key: str, touched: Touched, *, with_dependents: bool = False) -> int:
    """What an order for many tasks would do."""
    if shared.as_json:
        print_json({key: touched.ids, "count": touched.count, "dependents": touched.dependents})
    else:
        for task_id in touched.ids:
            click.echo(clean(task_id))
        _say_count("meant", len(touched.ids), touched, with_dependents)
    return OK


def _say_count(done: str, named: int, touched: Touched, with_dependents: bool) -> None:
    say(f"{touched.count:,} {done}" + (f", of which {named:,} are named" if touched.count > named else ""))
    if touched.dependents:
        names = ", ".join(touched.dependents[:NAMED_MAX]) + (", ..." if len(touched.dependents) > NAMED_MAX else "")
        fate = "go with them" if with_dependents else "are left (--dependents cancel takes them too)"
        say(f"{len(touched.dependents):,} that their code submitted {fate}: {names}")
