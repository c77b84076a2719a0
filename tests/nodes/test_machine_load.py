"""S4-21: what a node says of its machine, read off what the system says."""

import pytest

from nodes.machine_load import cpu_permille, measure, memory_permille

MEMINFO = """MemTotal:        8000000 kB
MemFree:          200000 kB
MemAvailable:    6000000 kB
Buffers:          100000 kB
SwapTotal:             0 kB
HugePages_Total:       0
"""


@pytest.mark.parametrize(
    ("load", "cores", "permille"), [(0.0, 2, 0), (0.5, 2, 250), (2.0, 2, 1_000), (7.31, 2, 1_000), (0.0004, 1, 0)]
)
def test_load_is_a_share_of_the_cores_and_no_more_than_all_of_them(load: float, cores: int, permille: int) -> None:
    assert cpu_permille(load, cores) == permille


def test_memory_that_can_be_had_is_not_taken() -> None:
    """Of 8 GB 200 MB are free, and 6 GB are to be had: caches give way."""
    assert memory_permille(MEMINFO) == 250


@pytest.mark.parametrize(
    ("meminfo", "permille"),
    [
        ("", 0),  # Another system.
        ("MemTotal: 8000000 kB\nMemFree: 1 kB\n", 0),  # An old kernel.
        ("MemTotal: 0 kB\nMemAvailable: 0 kB\n", 0),
        ("MemTotal: 1000 kB\nMemAvailable: 1200 kB\n", 0),  # A container's share of the machine may be told so.
        ("MemTotal: many kB\nMemAvailable: 1 kB\n", 0),
    ],
)
def test_what_the_system_does_not_say_is_nothing(meminfo: str, permille: int) -> None:
    assert memory_permille(meminfo) == permille


def test_this_machine_can_be_measured() -> None:
    """The tests run on it, so it has some memory taken, and not all of it."""
    found = measure()
    assert 0 <= found.cpu_permille <= 1_000
    assert 0 < found.memory_permille < 1_000
