"""Numbers that cannot go together are refused when they are written down, not when an election fails."""

import pytest

from mesh.config import GossipConfig, RaftConfig


@pytest.mark.parametrize(("heartbeat_ms", "election_timeout_ms"), [(0, 450), (-1, 450), (151, 450), (60, 179)])
def test_an_election_timeout_leaves_room_for_three_heartbeats(heartbeat_ms: int, election_timeout_ms: int) -> None:
    """One lost heartbeat, or two, must not cost an election."""
    with pytest.raises(ValueError, match="need 0 < 3 x heartbeat_ms <= election_timeout_ms"):
        RaftConfig(heartbeat_ms=heartbeat_ms, election_timeout_ms=election_timeout_ms)
    assert RaftConfig(heartbeat_ms=150, election_timeout_ms=450).heartbeat_ms == 150


@pytest.mark.parametrize(("interval_ms", "threshold"), [(49, 3), (1_000, 1)])
def test_heartbeats_are_no_faster_than_20_a_second_and_one_lost_is_no_verdict(interval_ms: int, threshold: int) -> None:
    """S0-13."""
    with pytest.raises(ValueError, match=f"not {interval_ms} and {threshold}"):
        GossipConfig(heartbeat_interval_ms=interval_ms, failure_threshold=threshold)
    assert GossipConfig(heartbeat_interval_ms=50, failure_threshold=2).failure_threshold == 2
