"""A comparison as Markdown: what was measured, what each submit rests on, what a kill cost."""

from __future__ import annotations

from collections.abc import Sequence

from bench.compare.chart import label
from bench.compare.records import Comparison, Loss, Row, Victim
from bench.svg import readable

FIGURES = ("System", "tasks/s", "CPU s per 1,000", "p50 ms", "p99 ms", "copies", "fsync", "results")
WORDS = (
    "Lost: never ran to the end, and the system does not have it. Held: not run to the end within the bound, but the "
    "system still has it. Doubled: ran to the end more than once. Rerun: began more than once. No result: the client "
    "was not given one. Back: from the kill to the result of a task submitted after it, behind what is queued."
)
LOSSES = ("System", "killed", "accepted", "lost", "held", "doubled", "rerun", "no result", "back, s", "all done, s")


def table(found: Comparison) -> str:
    """The whole page."""
    settings = found.settings
    parts = [
        f"{settings.tasks:,} no-op tasks of about 100 bytes, submitted one by one, {settings.in_flight:,} in flight, "
        f"results awaited; {settings.latency_tasks} one at a time. Medians of {settings.rounds} interleaved rounds. "
        f"{found.machine}, Python {found.python}; yardstick {_list(found.yardstick_us)} us.",
        _table(FIGURES, [_figures(row) for row in found.rows]),
        "Settings and versions:",
        "\n".join(f"- {label(row)}: {row.label.setting}{_versions(row)}" for row in found.rows),
    ]
    losses = [_loss(row, loss) for row in found.rows for loss in row.losses]
    if losses:
        parts += [
            f"{settings.nap_tasks} tasks of {settings.nap_s * 1e3:g} ms each; SIGKILL when a fifth had ended; what was "
            f"killed was started again at once on the same data; bounded to {settings.loss_timeout_s:g} s. {WORDS}",
            _table(LOSSES, losses),
        ]
    if found.skipped:
        parts += ["Left out:", "\n".join(f"- {name}: {why}" for name, why in found.skipped.items())]
    return "\n\n".join(parts) + "\n"


def _figures(row: Row) -> Sequence[str]:
    rests = row.label.durability
    if row.median is None:
        why = row.turns[-1].problem if row.turns else "not run"
        return label(row), f"no figures: {why}", "", "", "", str(rests.copies), rests.fsync, rests.results
    turn = row.median
    numbers = (turn.tasks_per_s, turn.cpu_s_per_1000, turn.p50_ms, turn.p99_ms)
    return label(row), *map(readable, numbers), str(rests.copies), rests.fsync, rests.results


def _loss(row: Row, loss: Loss) -> Sequence[str]:
    victim = row.label.keeper if loss.victim is Victim.KEEPER else loss.victim.value
    if loss.problem:
        return label(row), victim, f"no figures: {loss.problem}", *[""] * (len(LOSSES) - 3)
    counts = (loss.accepted, loss.lost, loss.held, loss.doubled, loss.rerun, loss.silent)
    return label(row), victim, *map(str, counts), _seconds(loss.back_s), _seconds(loss.done_s)


def _seconds(value: float | None) -> str:
    return "not in time" if value is None else readable(value)


def _versions(row: Row) -> str:
    return (
        f" ({', '.join(f'{name} {version}' for name, version in sorted(row.versions.items()))})" if row.versions else ""
    )


def _list(values: Sequence[float]) -> str:
    return ", ".join(readable(value) for value in values) or "not measured"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
