"""Which tasks a command means: one by its id, or all that meet conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mesh.client import MeshClient

LIVE = ("pending", "scheduled", "blocked", "dispatched", "running", "paused", "dead")
"""States a task may be cancelled from."""

TASKS_MAX = 100_000
"""One command touches no more than this; say it again for the rest."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """All of them must hold."""

    states: tuple[str, ...]
    capability: str
    priorities: range | None


def conditions(selector: str) -> Conditions | None:
    """The conditions a selector states, or None if it is an id. Raises a usage error."""
    from mesh.ledger.task import STATE_NAMES

    parts = [part.partition("=") for part in selector.split(",")]
    if not all(equals and key in ("capability", "state", "priority") for key, equals, _ in parts):
        return None
    states: list[str] = []
    capability, priorities = "", None
    for key, _, value in parts:
        if key == "capability":
            capability = value
        elif key == "state":
            if value not in STATE_NAMES:
                raise click.UsageError(f"no state is called {value!r}; there are {', '.join(STATE_NAMES)}")
            states.append(value)
        else:
            low, dash, high = value.partition("-")
            if not low.isdecimal() or (dash and not high.isdecimal()):
                raise click.UsageError(f"a priority is N or N-M, not {value!r}")
            priorities = range(int(low), int(high if dash else low) + 1)
    return Conditions(tuple(states) or LIVE, capability, priorities)


async def matching(mesh: MeshClient, selector: str, left_s: Callable[[], float]) -> list[str]:
    """Ids of the tasks a selector means. An id is taken at its word."""
    wanted = conditions(selector)
    if wanted is None:
        return [selector]
    ids: list[str] = []
    after = ""
    while len(ids) < TASKS_MAX:
        page = await mesh.tasks(
            state=wanted.states, capability=wanted.capability, after=after, limit=1_000, timeout=left_s()
        )
        ids += [one.id for one in page.tasks if wanted.priorities is None or one.priority in wanted.priorities]
        if not page.next or page.next == after:
            break
        after = page.next
    return ids
