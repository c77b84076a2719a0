"""Processes that die without warning, and a disk that is full: what was reported durable is there."""

import subprocess
import sys
from pathlib import Path

from tests.storage.disk import disk, entry, mark, task

ROOT = Path(__file__).parent.parent.parent
LIVES = (5, 60, 7, 200, 90)
"""Lines after which a process is killed, in the middle of whatever it does by then."""


def _lines(data_dir: Path, what: str, killed_after: int = 1_000_000) -> list[str]:
    """All that a process said until it was killed, or until it ended by itself."""
    command = [sys.executable, "-m", "tests.storage.crash_process", str(data_dir), what]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [line for line, _ in zip(process.stdout, range(killed_after), strict=False)]
        process.kill()
        return said + list(process.stdout)


def _numbers(lines: list[str], word: str) -> list[int]:
    return [int(line.split()[1]) for line in lines if line.startswith(word + " ")]


def test_what_was_reported_durable_survives_sigkill(tmp_path: Path) -> None:
    """Five lives of one node. Entries, votes and table are there, each as far as it was reported."""
    durable = table = 0
    for life, killed_after in enumerate(LIVES):
        said = _lines(tmp_path, "persist", killed_after)
        assert _numbers(said, "incarnation") == [2 * life + 1]
        durable = max([durable, *_numbers(said, "durable")])
        table = max([table, *_numbers(said, "ledger")])
        with disk(tmp_path) as opened:
            found = opened.recovered
        assert found.entries[-1].index >= durable
        assert found.entries == [entry(kept.index, data=bytes(2_000)) for kept in found.entries]
        assert (found.hard_state.term if found.hard_state else 0) >= durable // 100 * 100
        written = sorted(int(row.task_id[1:]) for row in found.live)
        assert all(
            written[at : at + 50] == list(range(written[at], written[at] + 50)) for at in range(0, len(written), 50)
        )
        covered = found.mark.applied_index if found.mark else 0
        assert covered >= table and (not written or written[-1] == covered + 8)
    assert durable > sum(LIVES) / 2 and table > 50


def test_a_kill_never_leaves_half_a_table(tmp_path: Path) -> None:
    """Tables are installed one after another. A life ends with all of one of them, and a log that goes with it."""
    installed = durable = 0
    for killed_after in LIVES:
        said = _lines(tmp_path, "install", killed_after)
        installed = max([installed, *_numbers(said, "installed")])
        durable = max([durable, *_numbers(said, "durable")])
        with disk(tmp_path) as opened:
            found = opened.recovered
        assert found.mark is not None
        index = found.mark.applied_index // 100 * 100
        assert index >= installed
        more = [task(f"{index}/more")] if found.mark == mark(index + 1) else []
        assert found.mark == mark(index + len(more))
        assert found.live == [task(f"{index}/{number}") for number in range(40)] + more
        assert found.before_term == 1
        assert found.entries in ([], [entry(index + 1), entry(index + 2)])
        assert found.entries or durable < index
    assert installed > 500


def test_a_full_disk_is_reported_once_and_nothing_is_promised_after_it(tmp_path: Path) -> None:
    """No file may grow beyond 1.5 MB. With room again, the node starts from all it had reported."""
    said = _lines(tmp_path, "full")
    failed = [line for line in said if line.startswith("failed")]
    assert len(failed) == 1 and "Writing /" in failed[0] and "See whether this disk is full" in failed[0]
    late = said[said.index(failed[0]) + 1 :]  # The other writer may have been in the middle of a write that succeeded.
    assert not [line for line in late if "durable" in line.lower() or "DiskFailed" in line]
    with disk(tmp_path) as opened:
        assert opened.recovered.entries[-1].index >= max(_numbers(said, "durable"))
        opened.persist(1, entry(opened.recovered.entries[-1].index + 1))
        opened.durable(1)
