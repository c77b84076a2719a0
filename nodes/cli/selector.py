"""Which tasks a command means: one by its id, or all that meet conditions."""

from __future__ import annotations

from typing import Any

import click

from nodes.cli.treating import priority_of

NAMES = {"capability": "capability", "type": "capability", "state": "state", "priority": "priority", "node": "node"}
"""What may stand before `=`, and what the client calls it."""


def conditions(selector: str) -> dict[str, Any] | None:
    """The conditions a selector states, as MeshClient.cancel_many takes them; None if it is an id.

    All of them must hold; of several states, one. Raises a usage error.
    """
    parts = [part.partition("=") for part in selector.split(",")]
    if not all(equals and name.strip() in NAMES for name, equals, _ in parts):
        return None
    wanted: dict[str, Any] = {}
    for said, _, text in parts:
        name, value = NAMES[said.strip()], text.strip()
        if not value:
            raise click.UsageError(f"{said.strip()}= says nothing")
        if name == "state":
            wanted.setdefault(name, []).append(_state(value))
        elif name in wanted:
            raise click.UsageError(f"{name} is said twice")
        else:
            wanted[name] = _priorities(value) if name == "priority" else value
    return wanted


def _state(name: str) -> str:
    from mesh.ledger.task import STATE_NAMES

    if name not in STATE_NAMES:
        raise click.UsageError(f"no state is called {name!r}; there are {', '.join(STATE_NAMES)}")
    return name


def _priorities(text: str) -> int | str | tuple[int, int]:
    low, dash, high = text.partition("-")
    if not dash:
        return priority_of(text)
    if not (low.isdecimal() and high.isdecimal()) or int(low) > int(high):
        raise click.UsageError(f"a priority is N or N-M, not {text!r}")
    priority_of(low)
    priority_of(high)
    return int(low), int(high)
