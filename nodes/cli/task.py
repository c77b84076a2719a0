"""`mesh task`: submit work, look at it, wait for it, take it back."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from nodes.cli.bulk import be_sure, each, print_touched, print_would
from nodes.cli.command import FAILED, OK, STILL_RUNNING, UNPLACEABLE, MeshGroup, Shared, as_usage
from nodes.cli.payload import payload_argument
from nodes.cli.printing import as_text, clean, clock, print_json, print_table, say
from nodes.cli.selector import conditions
from nodes.cli.session import read, stale_option, talk
from nodes.cli.showing import history_line, print_task
from nodes.cli.treating import DURATION, priority_of, treatment, treatment_options

if TYPE_CHECKING:
    from mesh.client import MeshClient
    from mesh.documents import Explanation, Touched

ENDED = ("completed", "failed", "cancelled", "dead")
POLL_S = 0.2


@click.group("task", cls=MeshGroup)
def task() -> None:
    """Work.

    \b
    mesh task submit code '{"prompt": "write sort"}' --wait
    mesh task explain t1
    mesh task cancel capability=code,state=pending --dry-run
    """


@task.command("submit")
@click.argument("capability")
@click.argument("payload", required=False, metavar="[JSON|@FILE|-]")
@click.option("--id", "task_id", metavar="ID", help="Submitting the same id again is harmless. Made up if not given.")
@click.option(
    "--priority", default="5", metavar="N|NAME", help="Lower goes first: urgent 0, critical 1, high 3, low 8."
)
@click.option("--max-attempts", type=click.IntRange(min=1), default=3, show_default=True, metavar="N")
@click.option("--delay", type=DURATION, metavar="TIME", help="Before the first attempt.")
@treatment_options(of_one_task=True)
@click.option("--wait", is_flag=True, help="Until it has ended, --timeout at most.")
@click.pass_obj
def submit(
    shared: Shared,
    /,
    capability: str,
    payload: str | None,
    task_id: str | None,
    priority: str,
    max_attempts: int,
    delay: float | str | None,
    wait: bool,
    **flags: Any,
) -> int:
    """Hand a task to the mesh. Returns once a quorum holds it.

    A TIME is seconds, or a number with a unit: 500ms, 30s, 10m, 2h, 1d. WHEN is 2026-08-01T03:00:00Z and the like.
    """
    value = payload_argument(payload)
    number = priority_of(priority)
    options = treatment(flags, max_attempts)
    _check(capability, value, options, task_id, max_attempts, delay)

    async def work(mesh: MeshClient) -> int:
        handle = await mesh.submit(
            capability,
            value,
            task_id=task_id,
            priority=number,
            max_attempts=max_attempts,
            delay=delay or 0.0,
            timeout=shared.left_s(),
            **options,
        )
        if wait:
            say(f"accepted {handle.id} at index {handle.index}")
            return await _wait(shared, mesh, handle.id)
        if shared.as_json:
            print_json({"id": handle.id, "state": await _state(shared, mesh, handle.id), "index": handle.index})
        else:
            click.echo(handle.id)
        return OK

    return talk(shared, work)


@task.command("show")
@click.argument("task_id", metavar="ID")
@stale_option()
@click.pass_obj
def show(shared: Shared, task_id: str, stale: bool) -> int:
    """One task, with its history."""

    async def work(mesh: MeshClient) -> int:
        print_task(
            shared, await read(shared, lambda alone, left: mesh.task(task_id, stale=alone, timeout=left), stale=stale)
        )
        return OK

    return talk(shared, work)


@task.command("list")
@click.option("--state", multiple=True, metavar="STATE", help="Only those in this state (may be repeated).")
@click.option("--capability", default="", metavar="NAME")
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True)
@click.option("--after", default="", metavar="ID", help="Go on after this id: `next` of the page before.")
@stale_option()
@click.pass_obj
def list_(shared: Shared, state: tuple[str, ...], capability: str, limit: int, after: str, stale: bool) -> int:
    """Tasks, in order of id, a page at a time."""
    _check_states(state)

    async def work(mesh: MeshClient) -> int:
        page = await read(
            shared,
            lambda alone, left: mesh.tasks(
                state=state, capability=capability, after=after, limit=limit, stale=alone, timeout=left
            ),
            stale=stale,
        )
        if shared.as_json:
            print_json(page)
        else:
            print_table(
                ("ID", "CAPABILITY", "PRIORITY", "STATE", "ATTEMPTS", "NODE"),
                [(one.id, one.capability, one.priority, one.state, one.attempts, one.node) for one in page.tasks],
            )
            if page.next:
                say(f"more: --after {page.next}")
        return OK

    return talk(shared, work)


@task.command("result")
@click.argument("task_id", metavar="ID")
@stale_option()
@click.pass_obj
def result(shared: Shared, task_id: str, stale: bool) -> int:
    """What the task returned, as JSON. Waits for it, --timeout at most; with --stale only if one node has it now."""

    async def work(mesh: MeshClient) -> int:
        if stale:
            value = await _stale_result(shared, mesh, task_id)
        else:
            value = await mesh.handle(task_id).result(timeout=shared.left_s())
        if shared.as_json:
            print_json({"id": task_id, "state": "completed", "result": value})
        else:
            click.echo(as_text(value))
        return OK

    return talk(shared, work)


@task.command("watch")
@click.argument("task_id", metavar="ID")
@click.pass_obj
def watch(shared: Shared, task_id: str) -> int:
    """Its history as it happens, until it ends (or --timeout, if given)."""

    async def work(mesh: MeshClient) -> int:
        shown = 0
        while True:
            found = await read(shared, lambda stale, left: mesh.task(task_id, stale=stale, timeout=max(left, 5.0)))
            for item in found.history[shown:]:
                if shared.as_json:
                    print_json(item)
                else:
                    click.echo(history_line(item))
            shown = len(found.history)
            if found.state in ENDED:
                return OK if found.state == "completed" else FAILED
            if shared.timeout is not None and shared.left_s() < POLL_S:
                say(f"{task_id} is {found.state}; it goes on")
                return STILL_RUNNING
            await asyncio.sleep(POLL_S)

    return talk(shared, work)


@task.command("explain")
@click.argument("task_id", metavar="ID")
@click.pass_obj
def explain(shared: Shared, task_id: str) -> int:
    """Why it is where it is: its place in the queue, and why each node is not running it."""

    async def work(mesh: MeshClient) -> int:
        found = await read(shared, lambda stale, left: mesh.explain(task_id, stale=stale, timeout=left))
        if shared.as_json:
            print_json(found)
            return OK
        _print_explanation(found)
        return OK

    return talk(shared, work)


def _print_explanation(found: Explanation) -> None:
    click.echo(clean(f"{found.id} is {found.state}. {found.summary}"))
    if found.next_attempt_at:
        click.echo(f"next attempt at {clock(found.next_attempt_at)}")
    for why in found.held_back_by:
        if why not in found.summary:
            click.echo(clean(f"held back: {why}"))
    if found.rejected:
        counts = sorted(found.rejected.items(), key=lambda item: (-item[1], item[0]))
        click.echo(clean("nodes rejected by " + ", ".join(f"{name}: {count}" for name, count in counts)))
    if found.holders:
        click.echo(clean("held so far by " + ", ".join(found.holders)))
    if found.nodes:
        click.echo()
        print_table(("NODE", "FITS", "WHY"), [(one.node, "yes" if one.fits else "no", one.why) for one in found.nodes])


@task.command("cancel")
@click.argument("selector")
@click.option("--reason", default="", help="Kept with each task.")
@click.option(
    "--dependents",
    type=click.Choice(("leave", "cancel")),
    default="leave",
    show_default=True,
    help="Live tasks that their code submitted.",
)
@click.option("--dry-run", is_flag=True, help="Only say which tasks it would be.")
@click.option("--yes", is_flag=True, help="Do not ask, though several tasks match.")
@click.pass_obj
def cancel(shared: Shared, selector: str, reason: str, dependents: str, dry_run: bool, yes: bool) -> int:
    """Cancel a task, or all that match.

    SELECTOR is an id, or conditions: capability=NAME (or type=NAME), state=STATE, priority=N or N-M, node=ID, joined by
    commas. A dead letter is meant only by its id, or by state=dead.
    """
    wanted = conditions(selector)
    takes_along = dependents == "cancel"

    async def order(mesh: MeshClient, *, is_dry: bool) -> Touched:
        which = {"task_ids": (selector,)} if wanted is None else wanted
        left_s = shared.left_s()
        return await mesh.cancel_many(**which, reason=reason, dependents=dependents, dry_run=is_dry, timeout=left_s)

    async def work(mesh: MeshClient) -> int:
        if dry_run:
            found = await order(mesh, is_dry=True)
            return print_would(shared, "would_cancel", found, with_dependents=takes_along)
        if wanted is not None and not yes:
            be_sure("cancel", (await order(mesh, is_dry=True)).count, yes)
        done = await order(mesh, is_dry=False)
        if wanted is None and not done.count:
            done = await _cancel_what_has_ended(shared, mesh, selector, reason)
        return print_touched(shared, "cancelled", done, with_dependents=takes_along)

    return talk(shared, work)


async def _cancel_what_has_ended(shared: Shared, mesh: MeshClient, task_id: str, reason: str) -> Touched:
    """No live task has this id. Raises what is wrong with that, unless it was cancelled before."""
    from mesh.documents import Touched

    await mesh.cancel(task_id, reason, timeout=shared.left_s())
    return Touched(1, [task_id], [])


@task.command("reprioritize")
@click.argument("task_id", metavar="ID")
@click.argument("priority", metavar="PRIORITY")
@click.pass_obj
def reprioritize(shared: Shared, task_id: str, priority: str) -> int:
    """Give a task another priority, by number or name: it keeps its place in time among those of that one."""
    number = priority_of(priority)

    async def work(mesh: MeshClient) -> int:
        await mesh.reprioritize(task_id, number, timeout=shared.left_s())
        if shared.as_json:
            print_json({"id": task_id, "priority": number})
        else:
            click.echo(f"{task_id} has priority {number}")
        return OK

    return talk(shared, work)


@task.command("retry")
@click.argument("task_id", metavar="ID")
@click.option("--payload", metavar="JSON|@FILE|-", help="Instead of its own.")
@click.pass_obj
def retry(shared: Shared, task_id: str, payload: str | None) -> int:
    """Put a task that failed for good, or is held, back in the queue, its attempts forgotten."""
    with_payload = other_payload(payload)

    async def work(mesh: MeshClient) -> int:
        return await each(
            shared, "retried", [task_id], lambda one: mesh.retry(one, timeout=shared.left_s(), **with_payload)
        )

    return talk(shared, work)


def other_payload(text: str | None) -> dict[str, Any]:
    """The payload a task is to be retried with, as MeshClient.retry takes it; nothing if it keeps its own."""
    from mesh.client.payload import encode_payload

    if text is None:
        return {}
    value = payload_argument(text)
    encode_payload(value)
    return {"payload": value}


async def _stale_result(shared: Shared, mesh: MeshClient, task_id: str) -> Any:
    """As one node knows it. Raises what waiting for it would have raised."""
    from mesh.errors import TaskCancelled, TaskFailed, TaskTimeout
    from mesh.ids import NodeId, TaskId

    found = await read(shared, lambda alone, left: mesh.task(task_id, stale=alone, timeout=left), stale=True)
    if found.state == "completed":
        return found.result
    if found.state == "cancelled":
        raise TaskCancelled(f"{task_id} was cancelled")
    if found.state in ENDED:
        raise TaskFailed(
            TaskId(task_id), found.error or "no reason is known", node=NodeId(found.node or ""), attempt=found.attempts
        )
    raise TaskTimeout(f"{task_id} is {found.state} where it was looked up")


async def _wait(shared: Shared, mesh: MeshClient, task_id: str) -> int:
    """Wait for the end of a task just submitted, and show it."""
    from mesh.errors import MeshUnavailable, TaskCancelled, TaskFailed, TaskTimeout, Unschedulable

    code = OK
    try:
        await mesh.handle(task_id).result(timeout=shared.left_s())
    except Unschedulable:
        code = UNPLACEABLE
    except (TaskFailed, TaskCancelled):
        code = FAILED
    except TaskTimeout:
        code = STILL_RUNNING
    if code == STILL_RUNNING:
        try:
            found = await mesh.explain(task_id, timeout=2.0)
        except MeshUnavailable:
            say(f"{task_id} has not ended, and there is no quorum to ask why")
            return STILL_RUNNING
        say(f"{task_id} is {found.state}: {found.summary}")
        code = UNPLACEABLE if found.reason == "no_capability" else STILL_RUNNING
    print_task(shared, await read(shared, lambda stale, left: mesh.task(task_id, stale=stale, timeout=max(left, 2.0))))
    return code


async def _state(shared: Shared, mesh: MeshClient, task_id: str) -> str:
    """The state of a task just accepted, or `pending` if nobody can be asked any more."""
    from mesh.errors import MeshError

    try:
        return (await mesh.task(task_id, timeout=min(2.0, shared.left_s()))).state
    except MeshError:
        return "pending"


def _check(
    capability: str,
    value: Any,
    options: dict[str, Any],
    task_id: str | None,
    max_attempts: int,
    delay: float | str | None,
) -> None:
    """What cannot be sent is refused before anybody is asked."""
    from mesh.client.options import treated
    from mesh.client.payload import check_name, encode_payload

    with as_usage():
        check_name("capability", capability)
        if task_id is not None:
            check_name("task id", task_id)
        treated(
            capability,
            value,
            options,
            task_id=task_id,
            max_attempts=max_attempts,
            delay=delay,
            now_ms=int(time.time() * 1_000),
        )
    encode_payload(value)


def _check_states(states: tuple[str, ...]) -> None:
    from mesh.ledger.task import STATE_NAMES

    for state in states:
        if state not in STATE_NAMES:
            raise click.UsageError(f"no state is called {state!r}; there are {', '.join(STATE_NAMES)}")
