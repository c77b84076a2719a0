"""How things look on a terminal and in a pipe: data on stdout, chatter on stderr, colour only where it is welcome."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

_COLOURS = {
    "healthy": "green",
    "completed": "green",
    "degraded": "yellow",
    "recovering": "yellow",
    "failed": "red",
    "dead": "red",
    "running": "cyan",
    "dispatched": "cyan",
}


def print_json(document: Any) -> None:
    """One document on one line, at once: whoever reads a stream waits for it."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Chatter."""
    click.echo(text, err=True)


def coloured(stream: Any = None) -> bool:
    """Whether colour is welcome on stdout (or `stream`)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool((stream or sys.stdout).isatty())


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns; no frame, so that it can be cut and grepped."""
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(headers), *cells]) for i in range(len(headers))]
    colour = coloured()

    def line(row: Sequence[str], bold: bool = False) -> str:
        parts = []
        for cell, width in zip(row, widths, strict=True):
            padded = cell.ljust(width)
            if colour and (bold or cell in _COLOURS):
                padded = click.style(padded, bold=bold or None, fg=None if bold else _COLOURS[cell])
            parts.append(padded)
        return "  ".join(parts).rstrip()

    click.echo(line(list(headers), bold=True), color=colour)
    for row in cells:
        click.echo(line(row), color=colour)


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Name and value, one a line."""
    known = [(name, "-" if value is None else str(value)) for name, value in pairs]
    width = max(len(name) for name, _ in known)
    for name, value in known:
        click.echo(f"{name.ljust(width)}  {value}")


def clock(at_ms: int | None) -> str:
    """Milliseconds since the epoch as RFC 3339 in UTC."""
    if not at_ms:
        return "-"
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_ms / 1_000)) + f".{at_ms % 1_000:03d}Z"


def as_text(value: Any) -> str:
    """A user's value as JSON text."""
    import msgspec

    return msgspec.json.encode(value).decode()
