"""What was seen during one run, as plain data: the input of the verdict, and easy to write by hand in a test."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, frozen=True)
class Expected:
    """How a task must end. `value` is the start of the result; a traced task's result ends with its fencing token."""

    end: str
    value: tuple[int, ...] = ()
    traced: bool = False


@dataclass(slots=True, frozen=True)
class Run:
    """A line that user code left: what happened in which attempt, under which fencing token."""

    task: str
    token: int
    attempt: int
    node: str
    what: str


@dataclass(slots=True, frozen=True)
class Glance:
    """One node's own word at one moment: the digest of its table after the entry at `index`."""

    node: str
    index: int
    digest: str


@dataclass(slots=True)
class History:
    """A run.

    `acked`: what the mesh said it holds, in the order it said so. `unknown`: submits without an answer; such a task may
    exist or not. `refused`: submits the mesh said it certainly does not hold, with its words. `results`: what clients
    were told. `completions` and `deaths`: from the committed events, the fencing tokens per task. `states`: the list
    of all tasks at the end.
    """

    acked: dict[str, Expected] = field(default_factory=dict)
    unknown: dict[str, Expected] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    completions: dict[str, list[int]] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)
    fenced: int = 0
    events_went_back: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Tasks that a stream or a list did not show when it was read first, though a second look finds them."""
    states: dict[str, str] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    glances: list[Glance] = field(default_factory=list)
    tables_differ: dict[str, int] = field(default_factory=dict)
    unsettled: str = ""
    """Why the mesh did not come to rest after everything was healed; empty if it did."""
    silence_s: float = 0.0
    """The longest time between two acknowledgements while there was work."""
    broken: list[str] = field(default_factory=list)
    """What a node said about a broken invariant of its own, and what else nobody can explain."""
    strikes: dict[str, int] = field(default_factory=dict)
    """Faults by kind."""
