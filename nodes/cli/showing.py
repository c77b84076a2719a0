"""How a task is shown, whole: its fields, what went wrong, what has happened to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nodes.cli.command import Shared
from nodes.cli.printing import as_text, clean, clock, print_json, print_pairs

if TYPE_CHECKING:
    from mesh.documents import Fault, HistoryItem, Task


def print_task(shared: Shared, found: Task, *, faults: bool = False) -> None:
    """One task, for a reader or as its document. `faults`: with every attempt that came to nothing, as far as kept."""
    if shared.as_json:
        print_json(found)
        return
    print_pairs(
        [
            ("id", found.id),
            ("state", found.state),
            ("capability", found.capability),
            ("priority", found.priority),
            ("attempts", f"{found.attempts} of {found.max_attempts}"),
            ("node", found.node),
            ("token", found.token or None),
            ("payload", _brief(found.payload)),
            ("checkpoint", _brief(found.checkpoint)),
            ("result", _brief(found.result)),
            ("error", found.error),
            ("submitted", clock(found.submitted_at)),
            ("finished", clock(found.finished_at)),
        ]
        + ([("parent", found.parent)] if found.parent else [])
        + ([("fell back, as", found.primary_error)] if found.primary_error else [])
    )
    if faults and found.faults:
        _print_faults(found.faults)
    elif found.error_detail:
        click.echo("\n" + _block(found.error_detail))
    click.echo()
    for item in found.history:
        click.echo(history_line(item))


def history_line(item: HistoryItem) -> str:
    about = " ".join(
        part
        for part in (
            item.node and f"node={item.node}",
            item.attempt and f"attempt={item.attempt}",
            item.token and f"token={item.token}",
            item.detail,
        )
        if part
    )
    return clean(f"{clock(item.at)}  {item.event:<18} {about}").rstrip()


def _print_faults(faults: list[Fault]) -> None:
    """The first and the latest are kept; where some are missing, that is said."""
    before = 0
    for fault in faults:
        if fault.attempt > before + 1 and before:
            click.echo(f"\nattempts {before + 1} to {fault.attempt - 1} are not kept")
        before = fault.attempt
        where = f" on {fault.node}" if fault.node else ""
        click.echo("\n" + clean(f"attempt {fault.attempt}{where} at {clock(fault.at)}: {fault.error}"))
        if fault.traceback:
            click.echo(_block(fault.traceback, "    "))


def _block(text: str, margin: str = "") -> str:
    """Several lines of other people's text."""
    return "\n".join(margin + clean(line) for line in text.rstrip().splitlines())


def _brief(value: Any) -> str | None:
    if value is None:
        return None
    text = as_text(value)
    return text if len(text) <= 200 else text[:197] + "..."
