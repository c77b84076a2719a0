"""Time in the log is the wall clock of whoever leads. Clocks differ and are set right; what waits does not mind."""

from tests.node.client import EPOCH_MS, spec
from tests.node.trio import ALL, ANA, BEN, Trio, settled

HOUR_MS = 3_600_000


def put_right(trio: Trio) -> None:
    """All clocks were an hour ahead; now they are not, and all nodes start again."""
    trio.client(ANA).submit(spec("before", capability="nobody"))
    trio.run(1_000)
    for name in ALL:
        trio.kill(name, silent=True)
    trio.epoch_ms = EPOCH_MS
    for name in ALL:
        trio.start(name)
    trio.run(2_000)


def ahead(trio: Trio) -> int:
    """How far time in the log is ahead of the wall clock."""
    node = trio[ANA].node
    return node.leading.log_ms() - node.now_ms - EPOCH_MS


def test_a_retry_comes_in_its_time_though_the_clock_was_put_back() -> None:
    """The log is an hour ahead of every clock there is. An attempt fails; the next one is due in a second, not in an
    hour and a second.
    """
    trio = Trio()
    for name in ALL:
        trio.kill(name, silent=True)
    trio.epoch_ms = EPOCH_MS + HOUR_MS
    for name in ALL:
        trio.start(name)
    trio.run(2_000)
    put_right(trio)
    client = trio.client(BEN)
    client.submit(spec("t1"))
    trio.run(20)
    [(holder, token)] = [(host.name, token) for host in trio.hosts.values() for task, token in host.runs]
    trio.ends(holder, "t1", token, error="ValueError: no")
    trio.run(900)
    assert sum(len(host.runs) for host in trio.hosts.values()) == 1
    trio.run(500)
    assert sum(len(host.runs) for host in trio.hosts.values()) == 2


def test_the_log_loses_a_tenth_of_its_lead_as_time_passes() -> None:
    """It never goes back, and in ten hours an hour is made up."""
    trio = Trio()
    for name in ALL:
        trio.kill(name, silent=True)
    trio.epoch_ms = EPOCH_MS + 5_000
    for name in ALL:
        trio.start(name)
    trio.run(2_000)
    put_right(trio)
    first, first_ms = ahead(trio), trio[ANA].node.now_ms
    trio.run(5_000)
    passed_ms = trio[ANA].node.now_ms - first_ms
    assert 0 < ahead(trio) <= first - passed_ms // 10 <= ahead(trio) + 1
    trio.run(40_000)
    assert ahead(trio) == 0


def test_a_clock_that_is_right_is_the_time_of_the_log() -> None:
    trio = settled()
    assert ahead(trio) == 0
