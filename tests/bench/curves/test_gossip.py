"""Hundreds of nodes that are not there: what they would say has the size it has, and is judged when it is due."""

import pytest

from bench.curves.gossip import measure


@pytest.mark.parametrize("nodes", [3, 7, 40])
def test_verdicts_come_when_the_design_says_whatever_the_size(nodes: int) -> None:
    """S0-08: three intervals of silence. A majority of broken links: the grace, counted from the break."""
    found = measure(nodes)
    assert found.silent_ms == 3_000
    assert found.broken_ms == 150


def test_a_heartbeat_grows_with_everybody_it_speaks_of() -> None:
    small, large = measure(10), measure(30)
    per_node = (large.beat_bytes - small.beat_bytes) / 20
    assert 10 < per_node < 30
    assert small.heard_bytes == pytest.approx(9 * small.beat_bytes, rel=0.01)
    assert large.heard_bytes == pytest.approx(29 * large.beat_bytes, rel=0.01)
