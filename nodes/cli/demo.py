"""`mesh demo`: the main job on this machine, its leader killed meanwhile, and the books balanced at the end."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from nodes.cli.command import FAILED, OK, MeshCommand, Shared
from nodes.cli.printing import coloured, print_json, print_pairs, say

if TYPE_CHECKING:
    from nodes.demo import Outcome

SLOTS = 4
"""Parsing keeps a processor busy; more at once on one machine would only take turns."""


@click.command("demo", cls=MeshCommand)
@click.argument("path", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--nodes", type=click.IntRange(1, 7), default=3, show_default=True)
@click.option("--no-kill", is_flag=True, help="Kill nobody.")
@click.pass_obj
def demo(shared: Shared, path: Path | None, nodes: int, no_kill: bool) -> int:
    """Analyse every .py file under PATH (this Python's own library) on a mesh that loses its leader on the way.

    Each file is a task; a last one adds everything up. Exit 0 only if nothing was lost and nothing completed twice.
    """
    from nodes.demo import python_files

    files = python_files(path)
    if not files:
        raise click.UsageError(f"there is no .py file under {path}")
    outcome = asyncio.run(_demo(files, nodes, kill=not no_kill))
    if shared.as_json:
        import msgspec

        print_json(msgspec.to_builtins(outcome))
    else:
        _print(outcome)
    return OK if not outcome.lost and not outcome.twice and not outcome.dead else FAILED


async def _demo(files: list[Path], nodes: int, *, kill: bool) -> Outcome:
    from nodes.demo import FILES_MAX, run
    from nodes.local_mesh import LocalMesh, LocalMeshSettings, free_base_port

    if len(files) > FILES_MAX:
        say(f"{len(files):,} files; the {FILES_MAX:,} nearest to the top will do")
    say(f"starting {nodes} node{'s' if nodes > 1 else ''} ...")
    settings = LocalMeshSettings(
        nodes=nodes, base_port=free_base_port(nodes), apps=("nodes.demo_app:app",), slots=SLOTS
    )
    async with LocalMesh(settings) as local:
        say("ready: " + ", ".join(f"{node.id} (pid {node.process.pid})" for node in local.nodes.values()))
        with _progress() as progress:
            return await run(local, files, kill=kill, progress=progress)


def _progress() -> AbstractContextManager[Any]:
    """A bar on a terminal that can show one; a line now and then elsewhere."""
    if sys.stderr.isatty() and coloured(sys.stderr):
        try:
            return _Bar()
        except ImportError:
            pass
    return nullcontext(_Lines())


class _Lines:
    """Progress for a pipe: every fifth of the way, and whatever happens."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, done: int, total: int, happened: str) -> None:
        if happened:
            say(f"{done:>5} of {total}: {happened}")
        elif done * 5 // total > self._told:
            self._told = done * 5 // total
            say(f"{done:>5} of {total}")


class _Bar:
    """Progress for a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("files"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("files", total=None)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int, happened: str) -> None:
        if happened:
            self._progress.console.print(f"{done:>5} of {total}: {happened}", highlight=False)
        self._progress.update(self._task, completed=done, total=total)


def _print(outcome: Outcome) -> None:
    report = outcome.report or {}
    print_pairs(
        [
            (
                "files",
                f"{report.get('files', 0):,}" + (f" ({outcome.left_out:,} left out)" if outcome.left_out else ""),
            ),
            ("lines", f"{report.get('lines', 0):,}"),
            ("functions", f"{report.get('functions', 0):,}"),
            ("branches", f"{report.get('branches', 0):,}"),
            ("longest", ", ".join(f"{Path(one['path']).name} {one['lines']:,}" for one in report.get("longest", []))),
        ]
    )
    click.echo()
    print_pairs(
        [
            ("tasks submitted", f"{outcome.submitted:,}"),
            ("completed", f"{outcome.completed:,}"),
            ("dead", outcome.dead),
            ("lost", outcome.lost),
            ("completed twice", outcome.twice),
            ("killed", ", ".join(outcome.killed) or "nobody"),
            ("without a leader", _ms(outcome.leaderless_ms)),
            ("death detected in", _ms(outcome.detect_ms)),
            ("its tasks elsewhere", _reassigned(outcome)),
            ("tasks per second", f"{outcome.tasks_per_s:g}"),
        ]
    )


def _reassigned(outcome: Outcome) -> str | None:
    if outcome.reassign_ms is None:
        return "it held none" if outcome.killed else None
    return f"{outcome.reassign_ms} ms later ({outcome.reassigned} of them)"


def _ms(value: int | None) -> str | None:
    return None if value is None else f"{value} ms"
