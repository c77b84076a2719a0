"""The power goes at any moment; the disk forgets what it confirmed. SQLite's own files, call by call.

What was reported is there, or the start is refused. A cut alone is never taken for damage.
"""

from pathlib import Path
from random import Random

import pytest

from mesh.effects import InstallSnapshot, StageSnapshot, TrimLog, WriteLedger
from mesh.events import Durable, Event, LedgerWritten, SnapshotInstalled
from mesh.ids import LogIndex, Term
from mesh.storage.faults import StoreDamaged
from tests.storage.disk import Disk, entries, entry, ledger_write, mark, persist, recovered_from, task, vote
from tests.storage.faulty_disk import beneath
from tests.storage.power_cut import Model, Recording


class _Recorded(Disk):
    """A store whose reports are written down among the calls."""

    def __init__(self, path: Path, recording: Recording) -> None:
        self.token = self.applied_index = 0
        super().__init__(path, started=False)
        for file in (self.store._log, self.store._ledger):
            file._db.execute("PRAGMA wal_autocheckpoint = 20")  # Not a thousand: a short life sees many of them.
        put = self.events.put

        def note(event: Event) -> None:
            if recording.is_on:
                recording.steps.append(event)
            put(event)

        self.store._post = note
        assert self.store._workers is not None
        for worker in (self.store._workers.log, self.store._workers.ledger, self.store._workers.reader):
            worker._post = note
        self.store.start()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recording, Model, Path]:
    """A node's life: batches, votes, cuts, tables, trims, and checkpoints between them."""
    path = tmp_path_factory.mktemp("told")
    recording, model = Recording(), Model()
    with beneath(recording.rule):
        ana = _Recorded(path / "n1", recording)
        recording.begin(path / "n1", path / "base")
        _live(ana, model, Random(7))
        recording.end()
        ana.store.close()
    assert len(recording.steps) > 400
    return recording, model, path


def _live(ana: _Recorded, model: Model, dice: Random) -> None:
    last = term = covered = 0
    for token in range(1, 61):
        hard_state, first, more = None, 0, dice.randrange(4)
        if token == 1 or dice.random() < 0.2:
            term += 1
            hard_state = vote(term, dice.choice([None, "ana", "ben"]))
        if last > covered and dice.random() < 0.2:
            first = dice.randrange(covered + 1, last + 1)
            last = first - 1
        data = dice.randbytes(dice.choice([10, 300, 9_000]))
        batch = persist(
            token, *(entry(last + 1 + at, term, data) for at in range(more)), truncate_from=first, vote=hard_state
        )
        last += more
        model.add(batch)
        ana.store.perform(batch)
        if dice.random() < 0.6:
            _wait(ana, token, covered)
        if dice.random() < 0.3 and last > covered:
            _wait(ana, token, covered)
            covered = dice.randrange(covered, last) + 1
            rows = [task(f"t{covered}/{number}", record=dice.randbytes(300)) for number in range(20)]
            entry_term = model.states[-1][1][covered - 1].term
            ana.store.perform(WriteLedger(ledger_write(covered, *rows, term=entry_term)))
            _wait(ana, token, covered)
            if dice.random() < 0.5:
                first_index = max(1, covered - 15)
                before = model.states[-1][1][first_index - 2].term if first_index > 1 else 0
                ana.store.perform(TrimLog(LogIndex(first_index), Term(before)))


def _wait(ana: _Recorded, token: int, applied_index: int) -> None:
    """Until the last batch and the last table so far are reported."""
    while (ana.token, ana.applied_index) != (token, applied_index):
        event = ana.events.get(timeout=20)
        if isinstance(event, Durable):
            ana.token = event.token
        else:
            assert isinstance(event, LedgerWritten), event
            ana.applied_index = event.applied_index


@pytest.mark.parametrize("seed", range(4))
def test_a_power_cut_at_any_call_loses_nothing_that_was_reported(
    told: tuple[Recording, Model, Path], tmp_path: Path, seed: int
) -> None:
    """(consensus D1, D19) Each write since the last sync is kept, dropped, torn or garbage, file by file. The log is as
    it was after some batch, none before the last one reported; the table stands no earlier than was reported.
    """
    recording, model, _ = told
    dice = Random(seed)
    for upto in range(seed, len(recording.steps), len(recording.steps) // 20):
        token, applied = recording.reported(upto)
        found = recovered_from(recording.image(tmp_path / "image", upto, dice))
        model.refuse(found, token)
        assert (found.mark.applied_index if found.mark else 0) >= applied


@pytest.mark.parametrize("seed", range(3))
def test_a_log_on_a_disk_that_forgets_is_refused_or_complete(
    told: tuple[Recording, Model, Path], tmp_path: Path, seed: int
) -> None:
    """From some call on nothing reached the log's files, though each sync was confirmed; the table is well. What its
    last write bears witness of is there, or the node does not start.
    """
    recording, model, _ = told
    dice = Random(seed)
    refused = accepted = 0
    for _ in range(15):
        forgets_after = dice.randrange(len(recording.steps))
        upto = dice.randrange(forgets_after, len(recording.steps)) + 1
        witnessed = _witnessed(recording, upto)
        image = recording.image(tmp_path / "image", upto, dice, forgets="log", forgets_after=forgets_after)
        try:
            found = recovered_from(image)
        except StoreDamaged:
            refused += 1
            continue
        model.refuse(found, witnessed)
        accepted += 1
    assert refused > 3 and accepted > 0


def _witnessed(recording: Recording, upto: int) -> int:
    """The last token reported before the last table write that is surely there."""
    durable = witnessed = 0
    for step in recording.steps[:upto]:
        if isinstance(step, Durable):
            durable = step.token
        elif isinstance(step, LedgerWritten):
            witnessed = durable
    return witnessed


def test_a_table_on_a_disk_that_forgets_is_refused_or_harmless(
    told: tuple[Recording, Model, Path], tmp_path: Path
) -> None:
    """The log is complete: either it reaches back to where the table stands, or the node does not start."""
    recording, model, _ = told
    dice = Random(0)
    outcomes = set()
    for _ in range(30):
        forgets_after = dice.randrange(len(recording.steps))
        image = recording.image(
            tmp_path / "image", len(recording.steps), dice, forgets="ledger", forgets_after=forgets_after
        )
        try:
            found = recovered_from(image)
        except StoreDamaged as error:
            outcomes.add("refused" if "ledger-1.db" in error.finding else error.finding)
            continue
        outcomes.add("harmless")
        model.refuse(found, recording.reported(len(recording.steps))[0])
        first = found.entries[0].index if found.entries else 1
        assert first <= (found.mark.applied_index if found.mark else 0) + 1
    assert outcomes == {"refused", "harmless"}


@pytest.mark.parametrize("seed", range(2))
def test_a_power_cut_while_a_table_is_installed(tmp_path: Path, seed: int) -> None:
    """The old table with the old log, or the new one with the new: at every call, and never half of each."""
    recording = Recording()
    with beneath(recording.rule):
        ana = _Recorded(tmp_path / "n1", recording)
        ana.persist(1, *entries(1, 30), vote=vote(2))
        ana.durable(1)
        ana.store.perform(WriteLedger(ledger_write(10, task("old"))))
        ana.next(LedgerWritten)
        recording.begin(tmp_path / "n1", tmp_path / "base")
        rows = [task(f"new {number}", record=bytes(3_000)) for number in range(40)]
        ana.store.perform(StageSnapshot(1, rows[:20], [(40, b"event")], first=True))
        ana.store.perform(StageSnapshot(1, rows[20:], [], first=False))
        ana.store.perform(InstallSnapshot(1, mark(50, term=2)))
        ana.next(SnapshotInstalled)
        ana.persist(2, entry(51, term=2))
        ana.durable(2)
        recording.end()
        ana.store.close()
    dice = Random(seed)
    for upto in range(seed, len(recording.steps) + 1, 6):
        reported = [step for step in recording.steps[:upto] if isinstance(step, SnapshotInstalled | Durable)]
        found = recovered_from(recording.image(tmp_path / "image", upto, dice))
        assert found.hard_state == vote(2)
        if found.mark == mark(10):
            assert (found.entries, found.live) == (entries(1, 30), [task("old")])
            assert reported == []
        else:
            assert (found.mark, found.live) == (mark(50, term=2), rows)
            assert found.entries in ([], [entry(51, term=2)])
            assert found.entries or len(reported) < 2
