"""A process with a store, to be killed. Prints what its store reported, one line for each event.

python -m tests.storage.crash_process DIR persist|install|full
"""

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from mesh.durable import LedgerMark
from mesh.effects import InstallSnapshot, StageSnapshot, TrimLog, WriteLedger
from mesh.events import DiskFailed, Durable, LedgerWritten, SnapshotInstalled
from mesh.ids import LogIndex, Term
from tests.storage.disk import Disk, entry, ledger_write, mark, persist, task, vote

IN_FLIGHT = 8
FILE_BYTES_MAX = 1_500_000


def _say(line: str) -> None:
    print(line, flush=True)


def _next_index(opened: Disk) -> int:
    found = opened.recovered
    return max([0, *(entry.index for entry in found.entries), found.mark.applied_index if found.mark else 0]) + 1


def write_for_ever(opened: Disk) -> None:
    """Entries one by one, a vote with each hundredth, the table every 50 entries, the log trimmed behind it."""
    index = _next_index(opened)
    for number in range(IN_FLIGHT):
        opened.store.perform(persist(index + number, entry(index + number, data=bytes(2_000))))
    index += IN_FLIGHT
    while True:
        match opened.events.get():
            case Durable(token):
                _say(f"durable {token}")
                while index <= token + IN_FLIGHT:
                    ballot = vote(index, "n2") if index % 100 == 0 else None
                    opened.store.perform(persist(index, entry(index, data=bytes(2_000)), vote=ballot))
                    if index % 50 == 0:
                        rows = [task(f"t{number}") for number in range(index - 50, index)]
                        opened.store.perform(WriteLedger(ledger_write(index - IN_FLIGHT - 1, *rows)))
                    index += 1
            case LedgerWritten(applied_index):
                _say(f"ledger {applied_index}")
                opened.store.perform(TrimLog(LogIndex(max(1, applied_index - 100)), Term(1)))
            case DiskFailed(reason):
                _say(f"failed {reason}")
                for late in range(5):
                    opened.store.perform(persist(index + late, entry(index + late)))
                opened.store.close()
                while not opened.events.empty():
                    _say(f"after the failure: {opened.events.get()}")
                return


def _marks(opened: Disk) -> Iterator[LedgerMark]:
    first = opened.recovered.mark.applied_index // 100 * 100 if opened.recovered.mark else 0
    for index in range(first + 100, first + 1_000_000, 100):
        yield mark(index)


def install_for_ever(opened: Disk) -> None:
    """Whole tables, each with 40 rows that carry its index; between them, two entries and a row of its own."""
    for at in _marks(opened):
        index = int(at.applied_index)
        rows = [task(f"{index}/{number}") for number in range(40)]
        opened.store.perform(StageSnapshot(index, rows[:20], [(index, b"first")], first=True))
        opened.store.perform(StageSnapshot(index, rows[20:], [], first=False))
        opened.store.perform(InstallSnapshot(index, at))
        opened.next(SnapshotInstalled)
        _say(f"installed {index}")
        opened.persist(index, entry(index + 1), entry(index + 2))
        opened.next(Durable)
        _say(f"durable {index}")
        opened.store.perform(WriteLedger(ledger_write(index + 1, task(f"{index}/more"))))
        opened.next(LedgerWritten)
        _say(f"ledger {index + 1}")


if __name__ == "__main__":
    if sys.argv[2] == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
    disk = Disk(Path(sys.argv[1]))
    _say(f"incarnation {disk.store.incarnation}")
    if sys.argv[2] == "install":
        install_for_ever(disk)
    else:
        write_for_ever(disk)
