"""`mesh settings`: the numbers a mesh is run by, which may change while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nodes.cli.command import OK, MeshGroup, Shared
from nodes.cli.printing import print_json, print_pairs
from nodes.cli.session import read, stale_option, talk

if TYPE_CHECKING:
    from mesh.client import MeshClient

STRATEGY = "strategy"


@click.group("settings", cls=MeshGroup)
def settings() -> None:
    """The numbers a mesh is run by.

    \b
    mesh settings list
    mesh settings set ageing_ms 30000
    """


@settings.command("list")
@stale_option()
@click.pass_obj
def list_(shared: Shared, stale: bool) -> int:
    """All of them. What each means stands in mesh/ledger/settings.py."""

    async def work(mesh: MeshClient) -> int:
        seen = await read(shared, lambda alone, left: mesh.settings(stale=alone, timeout=left), stale=stale)
        if shared.as_json:
            print_json(seen)
        else:
            print_pairs([(name, _shown(name, value)) for name, value in seen.settings.items()])
        return OK

    return talk(shared, work)


@settings.command("set")
@click.argument("name")
@click.argument("value", metavar="VALUE")
@click.pass_obj
def set_(shared: Shared, name: str, value: str) -> int:
    """Change one, for the whole mesh, at once. VALUE is a whole number; a strategy may be named."""
    number = _number(name, value)

    async def work(mesh: MeshClient) -> int:
        await mesh.set(name, number, timeout=shared.left_s())
        if shared.as_json:
            print_json({"name": name, "value": number})
        else:
            click.echo(f"{name} is {_shown(name, number)}")
        return OK

    return talk(shared, work)


def _number(name: str, value: str) -> int:
    from mesh.client.orders import STRATEGIES

    if name == STRATEGY and value in STRATEGIES:
        return STRATEGIES[value]
    try:
        return int(value)
    except ValueError:
        names = f", or one of {', '.join(STRATEGIES)}" if name == STRATEGY else ""
        raise click.UsageError(f"a setting is a whole number{names}, not {value!r}") from None


def _shown(name: str, value: int) -> str:
    from mesh.client.orders import STRATEGIES

    called = {number: word for word, number in STRATEGIES.items()}.get(value) if name == STRATEGY else None
    return f"{value} ({called})" if called else str(value)
