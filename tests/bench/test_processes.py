"""What /proc says, read: CPU of a process, of its children, and who descends from whom."""

import os
import subprocess
import sys

from bench.processes import cpu_ticks, descendants, tree_cpu_s

STAT = (
    "4242 (redis (7.0) x) S 1 4242 4242 0 -1 4194560 9021 100 0 0 731 212 40 17 20 0 5 0 999 6000000 2100 "
    "18446744073709551615 1 1 0 0 0 0 0 4096 17642 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0"
)


def test_a_process_has_used_its_user_and_its_system_time() -> None:
    assert cpu_ticks(STAT) == 731 + 212


def test_children_that_have_ended_count_if_asked_for() -> None:
    assert cpu_ticks(STAT, ended_children=True) == 731 + 212 + 40 + 17


def test_a_name_with_spaces_and_brackets_shifts_nothing() -> None:
    assert cpu_ticks(STAT.replace("(redis (7.0) x)", "(a) S 1 2 (b)")) == 731 + 212


def test_a_child_and_its_child_descend_from_us() -> None:
    works = "import time\nwhile time.process_time() < 0.1: pass\nprint(1, flush=True); input()"
    story = f"import subprocess,sys; subprocess.run([sys.executable, '-c', {works!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", story], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "1\n"
        grandchildren = descendants(child.pid)
        assert len(grandchildren) == 1
        assert set(descendants(os.getpid())) >= {child.pid, grandchildren[0]}
        assert 0 < tree_cpu_s(os.getpid()) < 60
        child.communicate("\n")
    assert child.pid not in descendants(os.getpid())


def test_nobody_descends_from_a_process_that_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert descendants(child.pid) == []
    assert tree_cpu_s(child.pid) == 0.0
