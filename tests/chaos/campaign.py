"""One configuration after another, each in a world of its own; a verdict for each, and one for all of them."""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from mesh.client.connection import MeshClient
from mesh.errors import MeshError
from tests.chaos import audit
from tests.chaos.arena import DISKS, RELAY, WIRES, able_to
from tests.chaos.configurations import Configuration
from tests.chaos.faults import Nemesis
from tests.chaos.fleet import Fleet
from tests.chaos.history import History
from tests.chaos.verdict import Verdict, judge
from tests.chaos.workload import Book, Stream

START_S = 60.0
SETTLE_S = 90.0
READ_S = 120.0
SAMPLE = 1_000
MAY_END_OF = ("The disk failed", "No space left on device")
"""What a node may end of by itself, to be started again: its disk."""


@dataclass(slots=True)
class Outcome:
    """What became of one configuration. `verdict` is None if this machine cannot do it."""

    configuration: Configuration
    verdict: Verdict | None
    seconds: float = 0.0
    settle_s: float = 0.0
    events: dict[str, int] | None = None
    exits: tuple[str, ...] = ()
    why_not: str = ""


def cannot(configuration: Configuration) -> str:
    """Why this machine cannot do it; empty if it can."""
    if configuration.wires and not able_to(WIRES):
        return "no network namespaces here"
    if configuration.relay and not able_to(RELAY):
        return "no relay between namespaces here"
    if configuration.disks and not able_to(DISKS):
        return "no file systems of our own here"
    return ""


BREAKER_OPEN_MS = 500
"""Some of the work fails again and again on purpose; what waits for it must not wait the ordinary minute."""
CRASHES_MAX = 20
"""Agent processes are killed all the time here, and that is no task's fault."""


async def run_one(configuration: Configuration, *, seconds: float, seed: int, root: Path) -> Outcome:
    """Start a mesh, hurt it for so long, heal it, and read the books. The directory stays for whoever wants to look."""
    if why_not := cannot(configuration):
        return Outcome(configuration, None, why_not=why_not)
    started = time.monotonic()
    root.mkdir(parents=True)
    history = History()
    book = Book(history, root / "acked.txt")
    outcome = Outcome(configuration, None)
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: history.broken.append(f"a client broke: {context.get('exception') or context['message']!r}")
    )
    fleet = Fleet(
        root,
        nodes=configuration.nodes,
        heartbeat_ms=configuration.heartbeat_ms,
        disks=configuration.disks,
        extra=configuration.joiners,
    )
    try:
        async with fleet:
            await fleet.wait_healthy(START_S)
            async with fleet.client() as client:
                await client.set("breaker_open_ms", BREAKER_OPEN_MS)
                await client.set("dead_after_crashes", CRASHES_MAX)
            await _hurt_and_heal(fleet, configuration, history, book, outcome, seconds, Random(seed))
    except* (MeshError, TimeoutError) as errors:
        history.unsettled = history.unsettled or f"the books could not be read: {errors.exceptions}"
    finally:
        book.close()
    audit.read_trace(fleet.trace, history)
    history.broken += _broken_invariants(fleet)
    outcome.verdict = judge(configuration.name, history)
    outcome.seconds = time.monotonic() - started
    return outcome


async def _hurt_and_heal(
    fleet: Fleet,
    configuration: Configuration,
    history: History,
    book: Book,
    outcome: Outcome,
    seconds: float,
    rng: Random,
) -> None:
    streams = [Stream(f"s{k}", fleet, book, mix, Random(rng.random())) for k, mix in enumerate(configuration.work)]
    auditor = audit.Audit(fleet, history)
    now = time.monotonic
    hurt_until, work_until = now() + seconds, now() + seconds + 2
    over = asyncio.Event()
    async with fleet.client(timeout=20) as client, asyncio.TaskGroup() as running:
        nemesis = Nemesis(fleet, Random(rng.random()), client)
        history.strikes = nemesis.strikes
        working = [running.create_task(stream.run(lambda: now() > work_until)) for stream in streams]
        following = running.create_task(auditor.follow(over.is_set))
        watching = running.create_task(nemesis.watch_over(over.is_set))
        lanes = [running.create_task(nemesis.run(lane, lambda: now() > hurt_until)) for lane in configuration.lanes]
        try:
            await asyncio.gather(*lanes)
            await fleet.heal()
            healed = now()
            await asyncio.sleep(max(0.0, work_until - now()))
            history.unsettled = await audit.settle(fleet, client, SETTLE_S)
            outcome.settle_s = now() - healed
            await asyncio.wait(working, timeout=5 if history.unsettled else 30)
        finally:
            over.set()
            for task in working:
                task.cancel()
            for stream in streams:
                for task in stream.open_results:
                    task.cancel()
        await asyncio.wait([following, watching], timeout=20)
        await _read_the_books(fleet, client, auditor, history)
    outcome.exits, outcome.events = tuple(nemesis.exits + nemesis.notes), auditor.counts
    history.broken += [words for words in nemesis.exits if not any(cause in words for cause in MAY_END_OF)]


async def _read_the_books(fleet: Fleet, client: MeshClient, auditor: audit.Audit, history: History) -> None:
    await auditor.finish(client, READ_S)
    async with asyncio.timeout(READ_S):
        await audit.read_states(client, history)
        await audit.look_again(fleet, client, history, READ_S)
    async with asyncio.timeout(READ_S):
        await audit.ask_for_results(client, history, sample=SAMPLE)
    await audit.look_at_tables(fleet, history, 30.0)


def _broken_invariants(fleet: Fleet) -> list[str]:
    """Whatever a node says about itself that must never be said."""
    found = []
    for node in fleet.nodes:
        log = fleet.log(node)
        if log.exists():
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            found += [
                f"{node} said: {line}" for line in lines if "broken invariant" in line or "unexpected error" in line
            ]
    return found[:10]


async def run_all(
    configurations: Sequence[Configuration],
    *,
    seconds: float,
    seed: int,
    root: Path,
    say: Callable[[str], None],
    keep: Path | None = None,
) -> list[Outcome]:
    """All of them, one after the other. Directories of good runs are removed, those of bad ones kept in `keep`."""
    outcomes = []
    for number, configuration in enumerate(configurations):
        where = root / configuration.name
        outcome = await run_one(configuration, seconds=seconds, seed=seed * 1_000 + number, root=where)
        outcomes.append(outcome)
        say(sentence(outcome))
        if outcome.verdict is not None and not outcome.verdict.good and keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            kept = keep / f"{configuration.name}-{seed}-{int(time.time())}"
            shutil.copytree(where, kept, ignore=shutil.ignore_patterns("lost+found", "*.img", "*.sock"))
            say(f"  kept in {kept}")
        shutil.rmtree(where, ignore_errors=True)
    return outcomes


def sentence(outcome: Outcome) -> str:
    """One configuration in one line, and a line for each problem."""
    name, verdict = outcome.configuration.name, outcome.verdict
    if verdict is None:
        return f"{name:18} not run: {outcome.why_not}"
    strikes = ", ".join(f"{kind} {count}" for kind, count in sorted(verdict.strikes.items()))
    line = (
        f"{name:18} {'good' if verdict.good else 'BAD '} {outcome.seconds:4.0f} s  acked {verdict.acked:7,}  "
        f"unknown {verdict.unknown:5,}  refused {verdict.refused:4,}  lost {verdict.lost}  twice {verdict.twice}  "
        f"fenced {verdict.fenced:5,}  silent {verdict.silence_s:4.1f} s  settled {outcome.settle_s:4.1f} s  [{strikes}]"
    )
    return "\n".join(
        [line, *(f"  BAD: {problem}" for problem in verdict.problems), *(f"  {words}" for words in outcome.exits[:5])]
    )


@dataclass(slots=True)
class Sum:
    """All of it together, and what is missing to the bar that was set."""

    configurations: int
    good: int
    skipped: int
    seconds: float
    acked: int
    unknown: int
    lost: int
    twice: int
    fenced: int
    kills_and_pauses: int
    strikes: dict[str, int]
    problems: list[str]


def add_up(outcomes: Sequence[Outcome], *, acked_min: int = 0, strikes_min: int = 0, run_min: int = 1) -> Sum:
    """Stale completions must have been refused, or nothing was proved."""
    verdicts = [outcome.verdict for outcome in outcomes if outcome.verdict is not None]
    strikes: Counter[str] = Counter()
    for verdict in verdicts:
        strikes.update(verdict.strikes)
    total = Sum(
        configurations=len(verdicts),
        good=sum(verdict.good for verdict in verdicts),
        skipped=len(outcomes) - len(verdicts),
        seconds=sum(outcome.seconds for outcome in outcomes),
        acked=sum(verdict.acked for verdict in verdicts),
        unknown=sum(verdict.unknown for verdict in verdicts),
        lost=sum(verdict.lost for verdict in verdicts),
        twice=sum(verdict.twice for verdict in verdicts),
        fenced=sum(verdict.fenced for verdict in verdicts),
        kills_and_pauses=sum(verdict.kills_and_pauses for verdict in verdicts),
        strikes=dict(sorted(strikes.items())),
        problems=[f"{verdict.name}: {problem}" for verdict in verdicts for problem in verdict.problems],
    )
    for what, count, least in (
        ("configurations were run", total.configurations, run_min),
        ("submits were acknowledged", total.acked, acked_min),
        ("kills and pauses were struck", total.kills_and_pauses, strikes_min),
        ("stale completions were refused", total.fenced, 1),
    ):
        if count < least:
            total.problems.append(f"vacuous: {count:,} {what}, {least:,} are wanted")
    return total
