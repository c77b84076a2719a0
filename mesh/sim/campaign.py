"""Many seeds, one verdict: what broke, what happened how often, and what never happened at all."""

import msgspec

from mesh.sim.coverage import CAMPAIGN_SEEDS_MIN, missing
from mesh.sim.plan import Plan, draw
from mesh.sim.story import Story
from mesh.sim.world import Verdict, run_seed

COMMAND = ".venv/bin/python -m mesh.sim seed {}"
"""The one command that repeats a run."""

STORY_LINES_MAX = 60
FAILURES_TOLD_MAX = 5
WEAKENINGS_MAX = 60
FAULTS_NAMED_MAX = 4


def run_cut(seed: int, percent: int) -> Verdict:
    """Run a seed for so much of the time in which things go wrong: many short runs see more beginnings and ends."""
    plan = draw(seed)
    if percent == 100:
        return run_seed(seed, plan)
    return run_seed(
        seed,
        msgspec.structs.replace(
            plan,
            safety_ms=plan.safety_ms * percent // 100,
            spares_start_ms=tuple(start_ms * percent // 100 for start_ms in plan.spares_start_ms),
        ),
    )


class Totals:
    """A campaign so far."""

    def __init__(self) -> None:
        self.seeds = 0
        self.events = 0
        self.virtual_ms = 0
        self.coverage: dict[str, int] = {}
        self.seeds_with: dict[str, int] = {}
        self.failures: list[Verdict] = []

    def add(self, verdict: Verdict) -> None:
        self.seeds += 1
        self.events += verdict.events
        self.virtual_ms += verdict.virtual_ms
        for name, count in verdict.coverage.items():
            self.coverage[name] = self.coverage.get(name, 0) + count
            self.seeds_with[name] = self.seeds_with.get(name, 0) + 1
        if verdict.invariant:
            self.failures.append(verdict)

    @property
    def missing(self) -> list[str]:
        """What was required and never happened; nothing is required of a short campaign."""
        return missing(self.coverage) if self.seeds >= CAMPAIGN_SEEDS_MIN else []

    @property
    def is_passed(self) -> bool:
        return not self.failures and not self.missing

    @property
    def _outcome(self) -> str:
        if self.failures:
            return f"{len(self.failures)} failed"
        return "vacuous" if self.missing else "passed"

    def lines(self, elapsed_s: float) -> list[str]:
        """The report."""
        told = [
            f"{name:40} {count:9}  in {self.seeds_with[name]:5} seeds" for name, count in sorted(self.coverage.items())
        ]
        for verdict in sorted(self.failures, key=lambda failure: failure.seed)[:FAILURES_TOLD_MAX]:
            told += ["", f"seed {verdict.seed} breaks {verdict.invariant}", f"    {verdict.detail[:600]}"]
            told.append(f"    again, with its story: {COMMAND.format(verdict.seed)}")
        if self.missing:
            told += ["", f"vacuous: never happened: {', '.join(self.missing)}"]
        told += [
            "",
            f"{self.seeds} seeds, {self.events} events, {self.virtual_ms / 1_000:.0f} virtual s in {elapsed_s:.0f} s: "
            + self._outcome,
        ]
        return told


def tell(seed: int, plan: Plan | None = None) -> tuple[Verdict, list[str]]:
    """Run one seed again and tell its story, if it breaks something: the task's, or the last events."""
    story = Story()
    verdict = run_seed(seed, plan, watchers=(story,))
    head = [
        f"seed {seed}: {verdict.events} events, {verdict.virtual_ms} virtual ms, trace {verdict.trace}",
        f"plan: {draw(seed) if plan is None else plan}",
    ]
    if not verdict.invariant:
        return verdict, [*head, "nothing broken"]
    lines = story.of_task(verdict.task_id, STORY_LINES_MAX) if verdict.task_id else story.last(STORY_LINES_MAX // 2)
    about = f"the story of {verdict.task_id}" if verdict.task_id else "the last events"
    return verdict, [
        *head,
        f"{about} (virtual ms, node, event, -> effect):",
        *lines,
        "",
        f"broken: {verdict.invariant}",
        f"    {verdict.detail}",
        f"again: {COMMAND.format(seed)}",
    ]


def shrink(seed: int, plan: Plan | None = None, tries_max: int = WEAKENINGS_MAX) -> tuple[Plan, Verdict]:
    """Make a failing plan smaller, as long as it breaks the same invariant.

    Faults off, all and by halves and one by one, fewer hosts, tasks and clients, a shorter run. Returns the smallest
    plan found; a plan that breaks nothing is returned as it is.
    """
    plan = draw(seed) if plan is None else plan
    verdict = run_seed(seed, plan)
    if not verdict.invariant:
        return plan, verdict
    tries, is_smaller = 0, True
    while is_smaller and tries < tries_max:
        is_smaller = False
        for weaker in _weaker(plan, verdict)[: tries_max - tries]:
            tries += 1
            result = run_seed(seed, weaker)
            if result.invariant == verdict.invariant:
                plan, verdict, is_smaller = weaker, result, True
                break
    return plan, verdict


def smallest(plan: Plan, verdict: Verdict) -> str:
    """How small a failure was made, in words."""
    names = list(plan.faults)
    faults = f"{len(names)} faults" if len(names) > FAULTS_NAMED_MAX else ", ".join(names) or "no fault"
    return f"{len(plan.host_ids)} nodes, {verdict.events:,} events, {faults}"


def _weaker(plan: Plan, verdict: Verdict) -> list[Plan]:
    """Plans a little smaller than this one, the boldest first."""
    replace = msgspec.structs.replace
    weaker = []
    names = list(plan.faults)
    half = len(names) // 2
    for fewer in ([], names[:half], names[half:]) if half else ():
        weaker.append(replace(plan, faults={fault: plan.faults[fault] for fault in fewer}))
    if verdict.virtual_ms < plan.safety_ms:
        weaker.append(replace(plan, safety_ms=verdict.virtual_ms + 1))
    for name in names:
        weaker.append(replace(plan, faults={fault: plan.faults[fault] for fault in names if fault != name}))
    if plan.spare_ids:
        founders = len(plan.node_ids)
        slots, capabilities = plan.slots[:founders], plan.capabilities[:founders]
        weaker.append(replace(plan, spare_ids=(), spares_start_ms=(), slots=slots, capabilities=capabilities))
    if plan.clients > 1:
        weaker.append(replace(plan, clients=1))
    if plan.tasks_max > 5:
        weaker.append(replace(plan, tasks_max=plan.tasks_max // 2))
    if plan.failing_permille:
        weaker.append(replace(plan, failing_permille=0))
    if plan.checkpoint_permille:
        weaker.append(replace(plan, checkpoint_permille=0))
    return weaker
