"""What a disk may hold after the power went: a recording of all that SQLite wrote, and images made of it."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from mesh.durable import Entry, HardState, Recovered
from mesh.effects import Persist
from mesh.events import Durable, Event, LedgerWritten
from tests.storage.faulty_disk import Call

SECTOR_BYTES = 512


@dataclass
class _File:
    """What is synced, and what was written since."""

    synced: bytearray
    pending: list[Call] = field(default_factory=list)

    def sync(self) -> None:
        for call in self.pending:
            _apply(self.synced, call)
        self.pending = []

    def after_the_cut(self, dice: Random) -> bytes:
        """Each write since the last sync is there, or not, or in part, or garbage, whatever became of the others. One
        within a sector is there or not: disks write sectors whole.
        """
        content = bytearray(self.synced)
        for call in self.pending:
            fate = dice.random()
            if fate < 0.5:
                _apply(content, call)
            elif call.kind == "truncate" or _is_within_a_sector(call):
                continue
            elif fate < 0.7:
                _apply(content, Call(call.kind, call.name, 0, call.offset, call.data[: dice.randrange(len(call.data))]))
            elif fate < 0.8:
                _apply(content, Call(call.kind, call.name, 0, call.offset, dice.randbytes(len(call.data))))
        return bytes(content)


def _is_within_a_sector(call: Call) -> bool:
    return call.offset // SECTOR_BYTES == (call.offset + len(call.data) - 1) // SECTOR_BYTES


def _apply(content: bytearray, call: Call) -> None:
    if call.kind == "truncate":
        del content[call.offset :]
        return
    if len(content) < call.offset:
        content.extend(bytes(call.offset - len(content)))
    content[call.offset : call.offset + len(call.data)] = call.data


class Recording:
    """All calls, with what was reported in between. `begin` once the store is open, with a copy of its directory."""

    def __init__(self) -> None:
        self.steps: list[Call | Event] = []
        self.is_on = False

    def rule(self, call: Call) -> int:
        if self.is_on and call.kind in ("write", "truncate", "sync", "delete") and not call.name.endswith("-shm"):
            self.steps.append(call)
        return 0

    def begin(self, data_dir: Path, base: Path) -> None:
        self.base = shutil.copytree(data_dir, base, ignore=shutil.ignore_patterns("*-shm", "lock"))
        self.is_on = True

    def end(self) -> None:
        self.is_on = False

    def reported(self, upto: int) -> tuple[int, int]:
        """The last token and the last mark that were reported among the first `upto` steps."""
        tokens = [step.token for step in self.steps[:upto] if isinstance(step, Durable)]
        marks = [step.applied_index for step in self.steps[:upto] if isinstance(step, LedgerWritten)]
        return (tokens[-1] if tokens else 0), (marks[-1] if marks else 0)

    def image(self, to: Path, upto: int, dice: Random, *, forgets: str = "", forgets_after: int = 0) -> Path:
        """The directory after a cut in front of step `upto`.

        With `forgets`, the disk confirmed all and kept nothing of what it was told about files of that name from step
        `forgets_after` on.
        """
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.base, to)
        files: dict[str, _File] = {}
        for at, step in enumerate(self.steps[:upto]):
            if not isinstance(step, Call) or (forgets and step.name.startswith(forgets) and at >= forgets_after):
                continue
            if step.name not in files:
                path = to / step.name
                files[step.name] = _File(bytearray(path.read_bytes() if path.exists() else b""))
            if step.kind == "delete":
                del files[step.name]
                (to / step.name).unlink(missing_ok=True)
            elif step.kind == "sync":
                files[step.name].sync()
            else:
                files[step.name].pending.append(step)
        for name, file in files.items():
            (to / name).write_bytes(file.after_the_cut(dice))
        return to


class Model:
    """What the log holds after each batch."""

    def __init__(self) -> None:
        self.states: list[tuple[HardState | None, list[Entry]]] = [(None, [])]

    def add(self, persist: Persist) -> None:
        vote, entries = self.states[-1]
        kept = [entry for entry in entries if not persist.truncate_from or entry.index < persist.truncate_from]
        self.states.append((persist.hard_state or vote, kept + list(persist.entries)))

    def refuse(self, found: Recovered, token_min: int) -> None:
        """Raises AssertionError unless this is the log after some batch from `token_min` on, less what was trimmed."""
        first = found.entries[0].index if found.entries else 0
        for vote, entries in self.states[token_min:]:
            if found.hard_state == vote and found.entries == [entry for entry in entries if entry.index >= first]:
                return
        raise AssertionError(f"{found.hard_state}, entries {first} to {len(found.entries)}, after token {token_min}")
