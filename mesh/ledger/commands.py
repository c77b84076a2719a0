"""Everything that may be written in the log as a command. Nothing else changes a task.

An entry carries one Batch. Times in it are the leader's, in milliseconds since the epoch, and never go back within a
log.
"""

from typing import TypeAlias

import msgspec

from mesh.ids import FencingToken, NodeId, TaskId, Term
from mesh.messages import TaskSpec


class _Command(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    pass


class SubmitTask(_Command, frozen=True, tag=1):
    """Accept a task. Submitting the same again changes nothing; the same id with another payload is a conflict."""

    spec: TaskSpec


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


class ReleaseLease(_Command, frozen=True, tag=7):
    """Give a lease back so that the task runs elsewhere: drain, rebalance, never delivered. Nothing is charged."""

    task_id: TaskId
    token: FencingToken
    reason: str


class CancelTask(_Command, frozen=True, tag=8):
    task_id: TaskId
    reason: str


class RedriveTask(_Command, frozen=True, tag=9):
    """Put a dead letter back in the queue with its attempts forgotten."""

    task_id: TaskId


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
)


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """What one log entry carries."""

    at_ms: int
    commands: list[Command]
