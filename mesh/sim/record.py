"""What the mesh as a whole has done so far, by anyone: what was committed first, who voted, what was promised."""

import msgspec

from mesh.durable import Configuration, Entry
from mesh.ids import TaskId
from mesh.sim.coverage import Coverage
from mesh.sim.invariants_limits import Limits
from mesh.sim.model import Model


class Committed(msgspec.Struct, frozen=True):
    """An entry as it was first seen committed. `seen_in_term` is the term of the node that was seen to commit it."""

    entry: Entry
    checksum: int
    seen_in_term: int


class Applying(msgspec.Struct, frozen=True):
    """What came of an entry where it was first applied."""

    digest: bytes
    outcomes: bytes


class Record:
    """Facts of the whole run. They are only ever added to."""

    def __init__(self, coverage: Coverage) -> None:
        self.coverage = coverage
        self.leaders: dict[int, str] = {}
        """By term."""
        self.entries: dict[tuple[int, int], tuple[int, int]] = {}
        """By (index, term): checksum of the entry, and the term of the entry before it."""
        self.committed: dict[int, Committed] = {}
        self.committed_max = 0
        self.applied: dict[int, Applying] = {}
        self.votes: dict[tuple[str, str, int], str] = {}
        """By (node, mark of its log, term): for whom a vote left the node."""
        self.configurations: list[tuple[int, Configuration]] = []
        """The committed ones, each with the index of its entry."""
        self.gone: dict[str, str] = {}
        """Marks of logs that were members and are not any more, and whose they were."""
        self.bound: dict[str, str] = {}
        """By mark: the node id it was first committed with."""
        self.model = Model(coverage)
        self.acked: dict[TaskId, int] = {}
        """Tasks a client was told are accepted, with the index it was told."""
        self.acked_order: list[TaskId] = []
        self.histories: dict[int, bytes] = {}
        """By log index: the events of that entry, as they were first written to a table's history."""
        self.finished: dict[int, tuple[TaskId, int, int]] = {}
        """By number: id, state and fingerprint of finished tasks, as they were first written to a table."""
        self.ends: dict[tuple[TaskId, int], int] = {}
        """By id and fingerprint: the number of a task that finished."""
        self.summaries: dict[int, bytes] = {}
        """By log index: what of the table is not a task, as it was first written."""
        self.limits = Limits()
        self.final: dict[TaskId, int] = {}
        """States in which a client was told that a task has ended for good."""


class Seen:
    """What one running node was last seen to be."""

    __slots__ = (
        "applied",
        "commit",
        "configuration",
        "configuration_index",
        "events",
        "first",
        "last",
        "needs_comparing",
        "role",
        "term",
    )

    def __init__(self) -> None:
        self.term = 0
        self.role: object = None
        self.commit = 0
        self.applied = 0
        self.first = 0
        self.last = 0
        self.events = 0
        self.configuration: Configuration | None = None
        self.configuration_index = 0
        self.needs_comparing = True
        """The whole table is compared with the model as soon as both stand at the same index."""
