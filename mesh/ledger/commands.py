"""Everything that may be written in the log as a command. Nothing else changes a task.

An entry carries one Batch. Times in it are the leader's, in milliseconds since the epoch, and never go back within a
log.
"""

from enum import IntEnum
from typing import TypeAlias

import msgspec

from mesh.ids import FencingToken, NodeId, TaskId, Term
from mesh.messages import Failure, TaskSpec
from mesh.options import CronSpec


class _Command(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    pass


class SubmitTask(_Command, frozen=True, tag=1):
    """Accept a task. Submitting the same again changes nothing; the same id with another payload is a conflict."""

    spec: TaskSpec
    renews: FencingToken = FencingToken(0)
    """A task of this id ended under this token, so long ago that its window is over: this one is another. Level 1."""


class GrantLease(_Command, frozen=True, tag=2):
    """Give `node_id` the right to run a waiting task. The fencing token is the log index of this entry."""

    task_id: TaskId
    node_id: NodeId


class StartTask(_Command, frozen=True, tag=3):
    """User code has begun to run: from here on the attempt is charged, whatever becomes of it."""

    task_id: TaskId
    token: FencingToken


BY_HAND = 0
"""Sequence of a checkpoint that a person saved: always kept, and none of the attempt's own is taken for it."""


class SaveCheckpoint(_Command, frozen=True, tag=4):
    """Keep what a running attempt has reached. `sequence` counts from 1 within the attempt; BY_HAND stands outside."""

    task_id: TaskId
    token: FencingToken
    sequence: int
    state: bytes


class CompleteTask(_Command, frozen=True, tag=5):
    task_id: TaskId
    token: FencingToken
    result: bytes


class FailAttempt(_Command, frozen=True, tag=6):
    """An attempt failed. `jitter_permille` (0-100): the leader's dice for the backoff; `final` forbids another try."""

    task_id: TaskId
    token: FencingToken
    error: str
    detail: str
    jitter_permille: int
    final: bool
    failure: int = Failure.HANDLER
    """Level 1."""


class ReleaseLease(_Command, frozen=True, tag=7):
    """Give a lease back so that the task runs elsewhere: drain, rebalance, never delivered. Nothing is charged."""

    task_id: TaskId
    token: FencingToken
    reason: str


class CancelTask(_Command, frozen=True, tag=8):
    task_id: TaskId
    reason: str


class RedriveTask(_Command, frozen=True, tag=9):
    """Put a dead letter, or a task that is held, back in the queue with its attempts forgotten."""

    task_id: TaskId
    payload: bytes | None = None
    """Instead of its own. Level 1."""


class DropDeadLetter(_Command, frozen=True, tag=10):
    """Give a dead letter up for good: it ends as failed, with the reason kept."""

    task_id: TaskId
    reason: str


class AdmitNode(_Command, frozen=True, tag=11):
    """A node (or a new incarnation of it) is there and may be granted leases. Leases of an older incarnation end."""

    node_id: NodeId
    incarnation: int


class FailNode(_Command, frozen=True, tag=12):
    """The verdict on a silent node: its leases end. Ignored if it has come back under another incarnation."""

    node_id: NodeId
    incarnation: int
    reason: str


class DrainNode(_Command, frozen=True, tag=13):
    """Grant a node nothing more (or, with draining False, grant to it again)."""

    node_id: NodeId
    draining: bool


class ElectLeader(_Command, frozen=True, tag=14):
    """First command of a term, for the record."""

    node_id: NodeId
    term: Term


class LeaveNode(_Command, frozen=True, tag=15):
    """A node goes of its own accord: its leases are given back, nothing is charged, and it is no failure."""

    node_id: NodeId
    incarnation: int


class RaiseLevel(_Command, frozen=True, tag=16):
    """From here on entries mean what they mean at this level. Proposed once every member can apply it, so that no two
    of them make different tables of one log; a node that cannot stops (and is to be upgraded).

    Level 0 is what release 0.1.0 applies. Level 1: options, breakers, poison, settings, schedules.
    """

    level: int


class Limit(IntEnum):
    """Which time has run out for a task."""

    SCHEDULE = 0
    RUN = 1
    PROGRESS = 2
    EXPIRY = 3


class TimeOut(_Command, frozen=True, tag=17):
    """A limit of the task has passed, by the time in the log. Refused if by that it has not. `token`: of the attempt it
    is about, 0 for a task that waits.
    """

    task_id: TaskId
    token: FencingToken
    limit: int
    jitter_permille: int


class Reprioritize(_Command, frozen=True, tag=18):
    """Give a waiting task another priority. Its place among those is the one it has by the order it came in."""

    task_id: TaskId
    priority: int


class SetSetting(_Command, frozen=True, tag=19):
    """Change a number the mesh is run by, see settings.py."""

    name: str
    value: int


class PauseQueue(_Command, frozen=True, tag=20):
    """Grant nothing of a capability: until `until_ms` (epoch), or until it is resumed if that is 0."""

    capability: str
    until_ms: int
    reason: str


class ResumeQueue(_Command, frozen=True, tag=21):
    capability: str


class FallBack(_Command, frozen=True, tag=22):
    """Nobody can be trusted with the task's capability just now: it waits for its fallback instead."""

    task_id: TaskId


class CloseBreaker(_Command, frozen=True, tag=23):
    node_id: NodeId
    capability: str


class SetCron(_Command, frozen=True, tag=24):
    """Begin a schedule, or change it. `next_ms` (epoch) is when it fires first: the leader knows calendars."""

    spec: CronSpec
    next_ms: int


class DropCron(_Command, frozen=True, tag=25):
    name: str


class FireCron(_Command, frozen=True, tag=26):
    """The schedule is due. Refused unless `due_ms` is when it is due next: so no firing happens twice.

    `delay_ms` puts the task off (jitter). `is_skipped`: the firing was missed, and is not made up for.
    """

    name: str
    due_ms: int
    next_ms: int
    delay_ms: int
    is_skipped: bool


Command: TypeAlias = (
    SubmitTask
    | GrantLease
    | StartTask
    | SaveCheckpoint
    | CompleteTask
    | FailAttempt
    | ReleaseLease
    | CancelTask
    | RedriveTask
    | DropDeadLetter
    | AdmitNode
    | FailNode
    | DrainNode
    | ElectLeader
    | LeaveNode
    | RaiseLevel
    | TimeOut
    | Reprioritize
    | SetSetting
    | PauseQueue
    | ResumeQueue
    | FallBack
    | CloseBreaker
    | SetCron
    | DropCron
    | FireCron
)


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """What one log entry carries."""

    at_ms: int
    commands: list[Command]
