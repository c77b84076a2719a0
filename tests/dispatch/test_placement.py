"""Which node gets a task, and why another does not."""

from random import Random

from mesh.dispatch.placement import Candidate, Placement, explain
from mesh.documents import NodeVerdict
from mesh.ids import NodeId
from mesh.ledger.queue import Demand

CODE = frozenset({"code"})


def node(name: str, *, load: int = 0, slots: int = 10) -> Candidate:
    return Candidate(NodeId(name), slots, load, CODE, admitted=True, reported=True)


def chosen(placement: Placement, candidates: list[Candidate]) -> str:
    candidate = placement.choose(candidates)
    assert candidate is not None
    return candidate.node_id


def test_the_least_loaded_node_is_chosen() -> None:
    """S0-27: ben has most room, measured by his share of slots taken, not by their number."""
    candidates = [node("ana", load=3), node("ben", load=4, slots=40), node("eva", load=2)]
    assert chosen(Placement(Random(1)), candidates) == "ben"


def test_among_equals_they_take_turns() -> None:
    """Three idle nodes, four tasks whose load has not shown yet."""
    placement, candidates = Placement(Random(1)), [node("ana"), node("ben"), node("eva")]
    assert [chosen(placement, candidates) for _ in range(4)] == ["ana", "ben", "eva", "ana"]


def test_no_node_is_chosen_above_its_slots() -> None:
    """S0-29: all are full, or there is nobody."""
    assert Placement(Random(1)).choose([node("ana", load=10), node("ben", load=3, slots=3)]) is None
    assert Placement(Random(1)).choose([]) is None


def test_each_reason_against_a_node_is_given_in_words() -> None:
    """One node for each filter, and one that fits."""
    other = node("other")
    other.capabilities = frozenset({"mail", "code review"})
    nothing = node("nothing")
    nothing.capabilities = frozenset()
    silent, stranger, leaving, mute = node("silent"), node("stranger"), node("leaving"), node("mute")
    silent.health, stranger.admitted, leaving.draining, mute.reported = "degraded", False, True, False
    full = node("full", load=10)
    candidates = [other, nothing, silent, stranger, leaving, mute, full, node("free")]
    assert explain(candidates, Demand("code")) == [
        NodeVerdict("other", False, "does not offer 'code' (it offers code review, mail)", "capability"),
        NodeVerdict("nothing", False, "does not offer 'code' (it offers nothing)", "capability"),
        NodeVerdict("silent", False, "is degraded", "health"),
        NodeVerdict("stranger", False, "is not admitted yet", "admin"),
        NodeVerdict("leaving", False, "is draining", "admin"),
        NodeVerdict("mute", False, "has not yet told the new leader what it runs", "admin"),
        NodeVerdict("full", False, "is full: 10 of 10 slots taken", "load"),
        NodeVerdict("free", True, "fits"),
    ]
    assert [candidate.is_eligible for candidate in candidates] == [True, True, False, False, False, False, True, True]
