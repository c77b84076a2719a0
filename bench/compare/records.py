"""What is measured and how it is kept: one document for a whole comparison."""

from __future__ import annotations

from enum import StrEnum

import msgspec

VERSION = 1


class Mode(StrEnum):
    """A system is measured as its makers recommend for speed, and as they recommend for losing nothing."""

    FAST = "fast"
    DURABLE = "durable"
    ONLY = "only"
    """It can be run one way."""


class Victim(StrEnum):
    """What is killed. Every system has something that runs tasks, and something that keeps them."""

    WORKER = "worker"
    KEEPER = "keeper"
    """The broker, scheduler or leader."""


class Durability(msgspec.Struct, frozen=True):
    """What a submit that has returned rests on."""

    copies: int
    fsync: str
    results: str
    """Where a result is until it is read."""


class Label(msgspec.Struct, frozen=True):
    """One system in one configuration. `setting` says in a line what that is; `keeper` what its keeper is called."""

    name: str
    title: str
    mode: Mode
    durability: Durability
    setting: str
    keeper: str


class Turn(msgspec.Struct):
    """One round of one system. `problem` is why there are no figures."""

    tasks_per_s: float = 0.0
    cpu_s_per_1000: float = 0.0
    """Of every process of the system, clients and workers included."""
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    problem: str = ""


class Loss(msgspec.Struct):
    """What one kill did. Of the tasks that were accepted before it:

    `lost` never ran to the end within the bound, and the system does not hold them; `held` did not either, but it does;
    `doubled` ran to the end more than once; `rerun` began more than once; `silent` gave the client no result.
    `back_s` is from the kill to the result of a task submitted after it, `done_s` to the end of the last task; None:
    not within the bound.
    """

    victim: Victim
    accepted: int = 0
    lost: int = 0
    held: int = 0
    doubled: int = 0
    rerun: int = 0
    silent: int = 0
    back_s: float | None = None
    done_s: float | None = None
    problem: str = ""


class Row(msgspec.Struct):
    """One system: medians of its turns (None without any that worked), and what was lost."""

    label: Label
    turns: list[Turn]
    losses: list[Loss]
    versions: dict[str, str]
    median: Turn | None = None


class Settings(msgspec.Struct, frozen=True):
    """The work, the same for all. Times in seconds."""

    rounds: int
    tasks: int
    in_flight: int
    latency_tasks: int
    nap_tasks: int
    nap_s: float
    turn_timeout_s: float
    loss_timeout_s: float


class Comparison(msgspec.Struct):
    """The document. `skipped` says why a system is not in it; `yardstick_us` has one figure a round."""

    version: int
    machine: str
    python: str
    settings: Settings
    yardstick_us: list[float]
    rows: list[Row]
    skipped: dict[str, str]
