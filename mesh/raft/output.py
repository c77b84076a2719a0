"""What a replica asks of the node around it."""

import msgspec

from mesh.durable import Entry
from mesh.effects import Persist
from mesh.ids import LogIndex, NodeId, PersistToken
from mesh.messages import RaftMessage


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A message for `to` that leaves once `after` is durable; NOTHING when it waits for nothing.

    Followers that are told the same share one message object, so it is encoded once.
    """

    to: NodeId
    message: RaftMessage
    after: PersistToken


class RaftOutput(msgspec.Struct):
    """All of one turn. Persists come before everything that waits for them.

    `committed`: entries in order, each once per life of the process, and on our own disk.
    `reads`: (read id, index that must be applied before it is answered). `failed_reads`: ask again elsewhere.
    `snapshots_needed`: followers that need what is no longer in our log; told once until snapshot_failed or a new term.
    """

    persists: list[Persist]
    outgoing: list[Outgoing]
    committed: list[Entry]
    reads: list[tuple[int, LogIndex]]
    failed_reads: list[int]
    snapshots_needed: list[NodeId]


NO_OUTPUT = RaftOutput([], [], [], [], [], [])
"""The answer of a turn in which nothing happened. Shared: do not change it."""
