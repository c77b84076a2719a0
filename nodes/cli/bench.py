"""`mesh bench`: the published numbers, repeatable."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from nodes.cli.command import FAILED, OK, MeshGroup, Shared, shared_options, take_shared
from nodes.cli.printing import print_json, print_pairs, say

if TYPE_CHECKING:
    from bench.run import Figures

NODES = 3


class BenchGroup(MeshGroup):
    """A group that is a command too: without a subcommand it runs everything."""

    def __init__(self, name: str | None = None, *, params: list[click.Parameter] | None = None, **options: Any) -> None:
        super().__init__(name, params=[*(params or []), *shared_options()], **options)

    def invoke(self, ctx: click.Context) -> Any:
        ctx.obj = take_shared(ctx)
        return super().invoke(ctx)


@click.group("bench", cls=BenchGroup, invoke_without_command=True)
@click.pass_context
def bench(ctx: click.Context) -> int:
    """Measure throughput, latency and fail-over on a mesh of its own on this machine.

    \b
    mesh bench                 everything, about a minute
    mesh bench latency --json
    """
    if ctx.invoked_subcommand is not None:
        return OK
    return _run(ctx.obj, ("submit", "latency", "failover"))


@bench.command("submit")
@click.option("--tasks", type=click.IntRange(min=1), default=10_000, show_default=True)
@click.option("--passes", type=click.IntRange(min=1), default=3, show_default=True)
@click.pass_obj
def submit(shared: Shared, tasks: int, passes: int) -> int:
    """Tasks per second and CPU per task: submitted one by one, 2,000 awaits in flight."""
    return _run(shared, ("submit",), tasks=tasks, passes=passes)


@bench.command("latency")
@click.option("--tasks", type=click.IntRange(min=1), default=300, show_default=True)
@click.pass_obj
def latency(shared: Shared, tasks: int) -> int:
    """Milliseconds from submit to result, one task at a time."""
    return _run(shared, ("latency",), latency_tasks=tasks)


@bench.command("failover")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.pass_obj
def failover(shared: Shared, rounds: int) -> int:
    """Milliseconds after a SIGKILL of the leader, and of a node that holds tasks."""
    return _run(shared, ("failover",), rounds=rounds)


def _run(
    shared: Shared,
    parts: tuple[str, ...],
    *,
    tasks: int = 10_000,
    passes: int = 3,
    latency_tasks: int = 300,
    rounds: int = 3,
) -> int:
    try:
        from bench.run import run
    except ModuleNotFoundError:
        say("mesh: the bench is part of the source tree, and this is an installed package without it")
        return FAILED
    figures = asyncio.run(
        run(parts, nodes=NODES, tasks=tasks, passes=passes, latency_tasks=latency_tasks, rounds=rounds, say=say)
    )
    if shared.as_json:
        print_json(figures)
    else:
        _print(figures)
    return OK


def _print(figures: Figures) -> None:
    stick = figures.yardstick
    rows: list[tuple[str, object]] = [
        ("machine", f"{figures.machine.processors} processors, Python {figures.machine.python}"),
        ("yardstick", f"{stick.cpu_us:g} us CPU a task, fsync {stick.fsync_ms:g} ms"),
        ("hot path", f"{figures.hot_path.cpu_us:g} us CPU a task, {figures.hot_path.wall_us:g} us by the clock"),
    ]
    if figures.submit is not None:
        one = figures.submit
        ratios = f"{figures.cpu_ratio:g} x yardstick, {figures.hot_path_ratio:g} x hot path"
        rows += [
            (
                "tasks per second",
                f"{one.tasks_per_s:,.0f}  (passes: {', '.join(f'{rate:,.0f}' for rate in one.passes)})",
            ),
            ("CPU s per 1,000 tasks", f"{one.cpu_s_per_1000:.3f}  ({ratios})"),
            ("  client", f"{one.client_cpu_s_per_1000:.3f}"),
            ("  nodes", f"{one.nodes_cpu_s_per_1000:.3f}"),
            ("  agents", f"{one.agents_cpu_s_per_1000:.3f}"),
            ("peak memory of a node", f"{figures.rss_peak_mib:g} MiB"),
        ]
    if figures.latency is not None:
        two = figures.latency
        rows += [
            ("submit to result, ms", f"p50 {two.p50_ms:g}  p95 {two.p95_ms:g}  p99 {two.p99_ms:g}"),
            ("submit to accepted, ms", f"p50 {two.accepted_p50_ms:g}  p99 {two.accepted_p99_ms:g}"),
        ]
    if figures.failover is not None:
        three = figures.failover
        rows += [
            ("leader killed: next submit, ms", _list(three.leader_ms)),
            ("node killed: verdict, ms", _list(three.detect_ms)),
            ("node killed: tasks elsewhere, ms", f"{_list(three.elsewhere_ms)}  ({_list(three.moved)} tasks)"),
            ("tasks lost", three.lost),
        ]
    print_pairs(rows)


def _list(values: list[float] | list[int]) -> str:
    return ", ".join(f"{value:g}" for value in values) or "-"
