"""A store in a temporary directory, its events in the order they came, and the records the tests are made of."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from mesh.durable import Entry, EntryKind, HardState, LedgerMark, LedgerWrite, Recovered, TaskRow
from mesh.effects import Persist
from mesh.events import Durable, Event, SnapshotStaged
from mesh.ids import LogIndex, NodeId, PersistToken, TaskId, Term
from mesh.storage.store import Store

WAIT_S = 20.0
"""What no test should ever need; an answer that is not there by then never comes."""

_E = TypeVar("_E")


class Disk:
    """One opened store. `recovered` is what it started from."""

    def __init__(self, path: Path, *, node_id: str = "n1", cluster: str = "mesh-1", started: bool = True) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.store = Store(path, node_id=node_id, cluster=cluster, post=self.events.put)
        self.recovered: Recovered = self.store.recover()
        if started:
            self.store.start()

    def next(self, kind: type[_E]) -> _E:
        """The next event, which must be of this kind. That rows were staged is passed over unless it is waited for."""
        event = self.events.get(timeout=WAIT_S)
        while isinstance(event, SnapshotStaged) and kind is not SnapshotStaged:
            event = self.events.get(timeout=WAIT_S)
        assert isinstance(event, kind), event
        return event

    def durable(self, token: int) -> None:
        """Wait until this token is reported, which must happen in order and without anything else."""
        reported = 0
        while reported < token:
            last, reported = reported, self.next(Durable).token
            assert reported > last

    def persist(self, token: int, *entries: Entry, truncate_from: int = 0, vote: HardState | None = None) -> None:
        self.store.perform(persist(token, *entries, truncate_from=truncate_from, vote=vote))


@contextmanager
def disk(path: Path, *, node_id: str = "n1", cluster: str = "mesh-1", started: bool = True) -> Iterator[Disk]:
    opened = Disk(path, node_id=node_id, cluster=cluster, started=started)
    try:
        yield opened
    finally:
        opened.store.close()


def recovered_from(path: Path, *, node_id: str = "n1") -> Recovered:
    """What a node would start from now."""
    with disk(path, node_id=node_id) as opened:
        return opened.recovered


def entry(index: int, term: int = 1, data: bytes | None = None) -> Entry:
    return Entry(LogIndex(index), Term(term), EntryKind.COMMANDS, b"entry %d" % index if data is None else data)


def entries(first: int, last: int, term: int = 1) -> list[Entry]:
    return [entry(index, term) for index in range(first, last + 1)]


def vote(term: int, voted_for: str | None = None) -> HardState:
    return HardState(Term(term), None if voted_for is None else NodeId(voted_for))


def persist(token: int, *some: Entry, truncate_from: int = 0, vote: HardState | None = None) -> Persist:
    return Persist(PersistToken(token), vote, LogIndex(truncate_from), some)


def mark(index: int, term: int = 1) -> LedgerMark:
    return LedgerMark(LogIndex(index), Term(term), b"digest %d" % index, b"summary", b"configuration")


def task(task_id: str, *, finished: int = 0, capability: str = "code", record: bytes | None = None) -> TaskRow:
    return TaskRow(
        TaskId(task_id),
        state=6 if finished else 1,
        capability=capability,
        finished=finished,
        fingerprint=1_000 + finished,
        record=f"record of {task_id}".encode() if record is None else record,
    )


def ledger_write(
    index: int,
    *rows: TaskRow,
    term: int = 1,
    forgotten: tuple[str, ...] = (),
    events: tuple[tuple[int, bytes], ...] = (),
    events_from: int = 0,
) -> LedgerWrite:
    return LedgerWrite(mark(index, term), list(rows), [TaskId(name) for name in forgotten], list(events), events_from)
