"""What a replica answers."""

from mesh.raft.output import NO_OUTPUT, RaftOutput
from tests.raft.cast import ANA, BEN, EVA, follower, founding


def test_a_turn_in_which_nothing_happened_costs_no_object() -> None:
    ben = follower(founding(ANA, BEN, EVA))
    ben.take()
    assert ben.take() is NO_OUTPUT
    assert RaftOutput([], [], [], [], [], []) == NO_OUTPUT
