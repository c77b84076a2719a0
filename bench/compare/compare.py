"""The whole comparison: everybody in turn, round after round, then the kills."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import yardstick
from bench.compare.loss import kill_and_count
from bench.compare.measure import machine, turn
from bench.compare.records import VERSION, Comparison, Row, Settings, Victim
from bench.compare.roster import ROSTER, Make
from bench.compare.shelf import NotInstalled, Shelf
from bench.compare.summary import middle

Say = Callable[[str], None]
Keep = Callable[[Comparison], None]


async def compare(
    makes: Sequence[Make],
    skipped: dict[str, str],
    shelf: Shelf,
    settings: Settings,
    *,
    kills: bool,
    keep: Keep,
    say: Say,
) -> Comparison:
    """Measure these systems. `skipped` is only written down. `keep` is handed the whole whenever it has grown."""
    rows = [Row(make().label, [], [], {}) for make in makes]
    found = Comparison(VERSION, machine(), platform.python_version(), settings, [], rows, skipped)
    for number in range(settings.rounds):
        found.yardstick_us.append(yardstick.measure(passes=1).cpu_us)
        for make, row in zip(makes, rows, strict=True):
            say(f"round {number + 1}: {title(row)} ...")
            one, versions = await turn(make(), shelf, settings)
            row.turns.append(one)
            row.versions |= versions
            row.median = middle(row.turns)
            say(f"... {one.problem or f'{one.tasks_per_s:,.0f} tasks/s, {one.cpu_s_per_1000:.3f} CPU s per 1,000'}")
            keep(found)
    for make, row in zip(makes, rows, strict=True):
        for victim in Victim if kills else ():
            say(f"{title(row)}: its {row.label.keeper if victim is Victim.KEEPER else victim} is killed ...")
            loss = await kill_and_count(make(), shelf, settings, victim)
            row.losses.append(loss)
            counts = f"{loss.lost} lost, {loss.held} held, {loss.doubled} doubled of {loss.accepted}"
            say(f"... {loss.problem or counts}")
            keep(found)
    return found


def title(row: Row) -> str:
    """As it is called in a progress line: name and mode."""
    return f"{row.label.name} ({row.label.mode})"


def present(names: Sequence[str], shelf: Shelf, *, install: bool, say: Say) -> tuple[list[Make], dict[str, str]]:
    """Those that are installed, or can be if that is asked for; and why each of the others is skipped."""
    makes: list[Make] = []
    skipped: dict[str, str] = {}
    for name in names:
        needs = ROSTER[name][0]().needs
        if install:
            try:
                shelf.install(name, needs, say)
            except NotInstalled as error:
                skipped[name] = str(error)
        missing = shelf.missing(name, needs)
        if missing:
            skipped.setdefault(name, missing)
            say(f"{name} is skipped: {skipped[name]}")
        else:
            makes += ROSTER[name]
    return makes, skipped


def folder_of_peers(given: Path | None, temporary: Path) -> Path:
    """Where the other systems are kept if nobody says where: always the same place, so that they are installed once."""
    return given if given is not None else temporary / "mesh-bench-peers"
