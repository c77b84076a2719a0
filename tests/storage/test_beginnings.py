"""The process dies while it opens its directory, at any call SQLite makes of the system: new directory and old."""

import multiprocessing
import os
from pathlib import Path

import pytest

from mesh.storage.directory import peek
from mesh.storage.store import Store
from tests.storage.disk import disk, entries, vote
from tests.storage.faulty_disk import Call, beneath

DIED, LIVED = 9, 0


def _open_and_die(data_dir: Path, calls: int, rejoining: bool) -> None:
    """Runs in a child."""
    left = calls

    def rule(call: Call) -> int:
        nonlocal left
        left -= call.kind in ("write", "sync", "truncate", "delete", "open")
        if not left:
            os._exit(DIED)
        return 0

    with beneath(rule):
        Store(data_dir, node_id="ana", cluster="mesh-1", post=lambda _: None, rejoining=rejoining).recover()
        os._exit(LIVED)


def _dies_after(data_dir: Path, calls: int, *, rejoining: bool = False) -> bool:
    child = multiprocessing.get_context("fork").Process(target=_open_and_die, args=(data_dir, calls, rejoining))
    child.start()
    child.join(20)
    assert child.exitcode in (DIED, LIVED)
    return child.exitcode == DIED


@pytest.mark.parametrize("first", range(1, 12))
def test_a_directory_is_made_in_as_many_attempts_as_it_takes(tmp_path: Path, first: int) -> None:
    """Each attempt gets a little further. It ends with an empty log, the first mark, and rejoining, as was said."""
    calls = first
    while _dies_after(tmp_path / "ana", calls, rejoining=calls == first):
        begun = peek(tmp_path / "ana")
        assert begun is not None and begun.rejoining
        calls += 11
    assert calls > 40
    made = peek(tmp_path / "ana")
    assert made is not None and made.is_complete and made.rejoining
    with disk(tmp_path / "ana", node_id="ana") as opened:
        assert (opened.store.created, opened.recovered.entries) == (made.created, [])
        assert opened.store.incarnation == made.incarnation + 1


def test_no_start_is_counted_twice_and_none_is_taken_for_another_file(tmp_path: Path) -> None:
    """Two deaths in a row at each call of a start, and then one that lives: a start that was counted in one file
    only, twice, leaves no more than one that was so once. What was durable is there all along.
    """
    with disk(tmp_path / "ana", node_id="ana") as opened:
        opened.persist(1, *entries(1, 9), vote=vote(3, "ben"))
        opened.durable(1)
    last, died, calls = 1, True, 0
    while died:
        calls += 1
        died = _dies_after(tmp_path / "ana", calls) and _dies_after(tmp_path / "ana", calls)
        with disk(tmp_path / "ana", node_id="ana") as opened:
            assert (opened.recovered.entries, opened.recovered.hard_state) == (entries(1, 9), vote(3, "ben"))
            assert opened.store.incarnation > last
            last = opened.store.incarnation
    assert calls > 10
