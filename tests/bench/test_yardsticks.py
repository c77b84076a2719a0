"""The yardsticks do their work to the end and leave nothing behind. What they measure is the machine's business."""

import asyncio
import threading
from pathlib import Path

import pytest

from bench import hot_path, yardstick


def test_a_pass_of_the_plain_loop_has_figures() -> None:
    found = yardstick.measure(passes=1)
    assert found.cpu_us > 0
    assert found.wall_us > 0
    assert found.fsync_ms >= 0


def test_the_hot_path_answers_every_task_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = threading.active_count()
    cpu_us, wall_us = asyncio.run(hot_path._one_pass())
    assert cpu_us > 0
    assert wall_us > 0
    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []
