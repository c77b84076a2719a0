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
    sys.stdout.write(as_text(document) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Chatter."""
    click.echo("\n".join(map(clean, text.split("\n"))), err=True)


def coloured(stream: Any = None) -> bool:
    """Whether colour is welcome on stdout (or `stream`)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool((stream or sys.stdout).isatty())


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns; no frame, so that it can be cut and grepped."""
    cells = [["-" if cell is None else clean(str(cell)) for cell in row] for row in rows]
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
    known = [(name, "-" if value is None else clean(str(value))) for name, value in pairs]
    width = max(len(name) for name, _ in known)
    for name, value in known:
        click.echo(f"{name.ljust(width)}  {value}")


def clock(at_ms: int | None) -> str:
    """Milliseconds since the epoch as RFC 3339 in UTC."""
    if not at_ms:
        return "-"
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_ms / 1_000)) + f".{at_ms % 1_000:03d}Z"


def spell(span_ms: int) -> str:
    """A length of time for people: `250 ms`, `12.5 s`, `3.0 min`, `2.5 h`, `4.0 d`."""
    if span_ms < 1_000:
        return f"{span_ms} ms"
    for limit_ms, unit_ms, unit in ((60_000, 1_000, "s"), (3_600_000, 60_000, "min"), (86_400_000, 3_600_000, "h")):
        if span_ms < limit_ms:
            return f"{span_ms / unit_ms:.1f} {unit}"
    return f"{span_ms / 86_400_000:.1f} d"


def clean(text: str) -> str:
    """A line of other people's text without what a terminal would obey: control characters are written out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def as_text(value: Any) -> str:
    """A document or a user's value as JSON text. A key that JSON cannot have is written as text."""
    import msgspec

    try:
        return msgspec.json.encode(value).decode()
    except TypeError:
        return msgspec.json.encode(_with_text_keys(msgspec.to_builtins(value))).decode()


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else as_text(key): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, list | tuple) else value
