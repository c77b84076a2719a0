"""Judges a history. Knows nothing of processes: what is wrong is found in plain data, and tested on it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.chaos.expect import COMPLETED, DEAD
from tests.chaos.history import Expected, History

SHOWN_MAX = 5
"""Examples named in one complaint."""

SILENCE_S_MAX = 60.0
"""No fault lasts longer than some seconds, so neither may the mesh's silence; with room for a busy machine."""

KILLS_AND_PAUSES = ("kill", "kill leader", "pause", "pause leader", "restart all", "kill agents")
"""Strikes that count towards the number of kills and pauses, each as many times as processes were hit."""


@dataclass(slots=True)
class Verdict:
    """What one run came to. `problems` is empty if all is well."""

    name: str
    acked: int
    unknown: int
    refused: int
    lost: int
    twice: int
    fenced: int
    kills_and_pauses: int
    silence_s: float
    strikes: dict[str, int]
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.problems


def judge(name: str, history: History) -> Verdict:
    """Every promise of the mesh, asked of one history."""
    lost = lost_tasks(history)
    twice = [task for task, tokens in history.completions.items() if len(tokens) > 1]
    verdict = Verdict(
        name=name,
        acked=len(history.acked),
        unknown=len(history.unknown),
        refused=len(history.refused),
        lost=len(lost),
        twice=len(twice),
        fenced=history.fenced,
        kills_and_pauses=sum(history.strikes.get(kind, 0) for kind in KILLS_AND_PAUSES),
        silence_s=history.silence_s,
        strikes=dict(history.strikes),
    )
    complain = verdict.problems.append
    if history.unsettled:
        complain(f"did not come to rest after healing: {history.unsettled}")
    if history.silence_s > SILENCE_S_MAX:
        complain(f"nothing was acknowledged for {history.silence_s:.0f} s")
    if lost:
        complain(f"{len(lost)} acknowledged tasks are lost, {where_lost(history.acked, lost)}: {_some(lost)}")
    if twice:
        complain(f"{len(twice)} tasks completed twice: {_some(twice)}")
    for what, tasks in _wrong_ends(history):
        if tasks:
            complain(f"{len(tasks)} tasks {what}: {_some(tasks)}")
    for what, tasks in _wrong_traces(history):
        if tasks:
            complain(f"{len(tasks)} tasks {what}: {_some(tasks)}")
    problems_of_tables(history, verdict.problems)
    verdict.problems += history.broken
    if not history.acked:
        complain("vacuous: nothing was acknowledged")
    if not history.strikes:
        complain("vacuous: no fault was struck")
    return verdict


def lost_tasks(history: History) -> list[str]:
    """Acknowledged, and unknown to the mesh at the end; in the order they were acknowledged in."""
    return [task for task in history.acked if task not in history.states]


def where_lost(acked: Iterable[str], lost: Iterable[str]) -> str:
    """Where in the order of acknowledgements the lost ones lie. Each place points to another cause.

    A prefix is what was forgotten from the start (retention, a table replaced by an older one); a postfix is what was
    acknowledged before it was safe (no quorum, no fsync); gaps in the middle are a change of leader that cut too much.
    """
    gone = set(lost)
    marks = [task in gone for task in acked]
    count = sum(marks)
    if count == len(marks):
        return "all of them"
    if all(marks[:count]):
        return "a prefix (the first ones)"
    if all(marks[len(marks) - count :]):
        return "a postfix (the last ones)"
    first, last = marks.index(True), len(marks) - 1 - marks[::-1].index(True)
    return f"in the middle (between acknowledgements {first} and {last} of {len(marks)})"


def _wrong_ends(history: History) -> list[tuple[str, list[str]]]:
    """Tasks the mesh knows whose end is not the one they must have."""
    known = {task: expected for task, expected in _sent(history) if task in history.states}
    ended = {task: expected for task, expected in known.items() if history.states[task] == expected.end}
    return [
        ("have ended otherwise, or not at all", [task for task in known if task not in ended]),
        (
            "are completed without an event that says so",
            [task for task, want in ended.items() if want.end == COMPLETED and not history.completions.get(task)],
        ),
        (
            "are not dead exactly once",
            [task for task, want in ended.items() if want.end == DEAD and history.deaths.get(task, 0) != 1],
        ),
        (
            "that must die were completed",
            [task for task, want in known.items() if want.end == DEAD and task in history.completions],
        ),
        ("gave a wrong result", [task for task, want in ended.items() if not _right(history, task, want)]),
        ("exist, though their submit was refused for certain", [t for t in history.refused if t in history.states]),
        (
            "exist that nobody submitted",
            [t for t in history.states if t not in known and t not in history.refused],
        ),
    ]


def _right(history: History, task: str, want: Expected) -> bool:
    """Whether what clients were told is what the task must give. Nobody need have been told."""
    told = history.results.get(task)
    if told is None or want.end != COMPLETED:
        return told is None
    if not want.traced:
        return list(told) == list(want.value)
    return list(told[:-1]) == list(want.value) and [told[-1]] == history.completions.get(task, [])[:1]


def _wrong_traces(history: History) -> list[tuple[str, list[str]]]:
    """What user code did, against what the ledger says of it."""
    ends = Counter((run.task, run.token) for run in history.runs if run.what == "end")
    begins = Counter((run.task, run.token) for run in history.runs if run.what != "end")
    completed = {task: tokens[0] for task, tokens in history.completions.items() if tokens}
    traced = [task for task, want in _sent(history) if want.traced and task in completed]
    return [
        ("were started twice under one token", [task for (task, _), count in begins.items() if count > 1]),
        (
            "were completed under a token whose attempt never came to its end",
            [task for task in traced if (task, completed[task]) not in ends],
        ),
    ]


def problems_of_tables(history: History, problems: list[str]) -> None:
    """Equal index, equal digest; and no node may have seen another's table differ."""
    by_index: dict[int, dict[str, list[str]]] = {}
    for glance in history.glances:
        by_index.setdefault(glance.index, {}).setdefault(glance.digest, []).append(glance.node)
    for index, digests in sorted(by_index.items()):
        if len(digests) > 1:
            told = ", ".join(f"{digest} at {'/'.join(nodes)}" for digest, nodes in sorted(digests.items()))
            problems.append(f"the tables differ at index {index}: {told}")
    seen = {node: count for node, count in history.tables_differ.items() if count}
    if seen:
        problems.append(f"nodes noticed tables that differ: {seen}")
    for where, tasks in history.left_out.items():
        problems.append(f"{len(tasks)} tasks were left out of {where}, and are on record: {_some(tasks)}")
    if history.events_went_back:
        problems.append(f"the stream of events went back {history.events_went_back} times")


def _sent(history: History) -> Iterable[tuple[str, Expected]]:
    yield from history.acked.items()
    for task, expected in history.unknown.items():
        if task not in history.acked:
            yield task, expected


def _some(tasks: list[str]) -> str:
    return ", ".join(sorted(tasks)[:SHOWN_MAX]) + (", ..." if len(tasks) > SHOWN_MAX else "")
