"""Which node gets a task, and why another does not."""

from random import Random
from typing import Any

import pytest

from mesh.dispatch.placement import Candidate, Placement, explain
from mesh.documents import NodeVerdict
from mesh.ids import NodeId
from mesh.ledger.queue import Demand
from mesh.ledger.settings import Settings, Strategy
from mesh.options import Options

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


# --- strategies (S4-21) -----------------------------------------------------------------------------------------------


def granted(placement: Placement, candidates: list[Candidate], strategy: Strategy, count: int, **given: Any) -> str:
    """Whom so many tasks go to, one after another, by the first letters; each takes a slot."""
    found = ""
    for _ in range(count):
        candidate = placement.choose(candidates, strategy, "code", **given)
        if candidate is None:
            return found + "-"
        candidate.load += 1
        found += candidate.node_id[0]
    return found


def trio(**given: Any) -> list[Candidate]:
    return [node(name, **given) for name in ("ana", "ben", "eva")]


def test_there_are_the_six_of_the_mission_and_the_first_is_the_ordinary_one() -> None:
    """S4-21, and what people call them."""
    assert [strategy.name for strategy in Strategy] == [
        "LEAST_CONNECTIONS",
        "ROUND_ROBIN",
        "WEIGHTED_ROUND_ROBIN",
        "RESOURCE_BASED",
        "GEOGRAPHIC",
        "RANDOM",
    ]
    assert Settings().strategy == Strategy.LEAST_CONNECTIONS


@pytest.mark.parametrize("strategy", Strategy)
def test_no_strategy_goes_above_slots_or_makes_anything_of_nobody(strategy: Strategy) -> None:
    """S0-29: three nodes, five slots, six tasks; all five are filled."""
    candidates = [node("ana", slots=1), node("ben", slots=3), node("eva", slots=1)]
    found = granted(Placement(Random(3)), candidates, strategy, 6)
    assert (sorted(found[:5]), found[5]) == (["a", "b", "b", "b", "e"], "-")
    assert Placement(Random(3)).choose([], strategy) is None
    full = Options(prefer=(("gpu", "yes"),), sticky="w")
    assert Placement(Random(3)).choose(candidates, strategy, "code", full, NodeId("ana")) is None


@pytest.mark.parametrize("strategy", Strategy)
def test_the_same_dice_make_the_same_choices(strategy: Strategy) -> None:
    """A seed reproduces a run; only one strategy rolls them at all."""
    runs = {granted(Placement(Random(7)), trio(), strategy, 25) for _ in range(3)}
    assert len(runs) == 1
    others = {granted(Placement(Random(seed)), trio(), strategy, 25) for seed in range(5)}
    assert (len(others) > 1) == (strategy is Strategy.RANDOM)


def test_round_robin_takes_each_in_turn_whatever_its_load() -> None:
    """Whoever is full loses its turn."""
    candidates = [node("ana", load=8), node("ben"), node("eva", load=10)]
    assert granted(Placement(Random(1)), candidates, Strategy.ROUND_ROBIN, 7) == "ababbbb"


def test_weighted_turns_go_by_how_fast_each_is() -> None:
    """ana takes 100 ms for a `code` task, ben 200, eva 400, so in a while she does four, he two, and she one. Evenly
    spread, not in bursts. Whoever has not been measured yet counts as usual."""
    candidates = trio(slots=100)
    for candidate, mean_ms in zip(candidates, (100, 200, 400), strict=True):
        candidate.mean_ms = {"code": mean_ms, "mail": 7}
    found = granted(Placement(Random(1)), candidates, Strategy.WEIGHTED_ROUND_ROBIN, 70)
    assert [found.count(letter) for letter in "abe"] == [40, 20, 10]
    assert "aaaa" not in found
    fresh = trio(slots=100)
    fresh[0].mean_ms = {"code": 100}
    assert granted(Placement(Random(1)), fresh, Strategy.WEIGHTED_ROUND_ROBIN, 6) == "abeabe"
    fresh[1].mean_ms = {"code": 300}
    for candidate in fresh:
        candidate.current = candidate.load = 0
    found = granted(Placement(Random(1)), fresh, Strategy.WEIGHTED_ROUND_ROBIN, 60)
    assert found.count("a") > found.count("e") > found.count("b")


def test_a_node_a_thousand_times_slower_has_its_turn_too() -> None:
    """In its proportion: five of five thousand."""
    slow, fast = node("slow", slots=9), node("fast", slots=9_999)
    slow.mean_ms, fast.mean_ms = {"code": 1_000}, {"code": 1}
    found = granted(Placement(Random(1)), [slow, fast], Strategy.WEIGHTED_ROUND_ROBIN, 5_005)
    assert found.count("s") == 5


def test_resources_go_by_whichever_is_scarcer_and_by_slots_just_taken() -> None:
    """eva's memory is nearly full, ben's processors are busy; ana is the freest until she has got four of ten."""
    ana, ben, eva = candidates = trio()
    ana.cpu_permille, ben.cpu_permille, eva.memory_permille = 200, 550, 900
    assert granted(Placement(Random(1)), candidates, Strategy.RESOURCE_BASED, 6) == "aaaaba"


def test_the_nearest_goes_by_parts_of_the_location_from_the_widest_on() -> None:
    """`eu/de/berlin`: a node in Berlin, then one in Germany, then in Europe. Half a part alike is no nearness."""
    places = {"far": "us/ny", "europe": "eu/fr", "germany": "eu/de/bonn", "city": "eu/de/berlin/mitte", "odd": "eu/d"}
    candidates = [node(name, slots=1) for name in places]
    for candidate in candidates:
        candidate.labels = {"location": places[candidate.node_id]}
    candidates.append(node("nowhere", slots=1))
    options = Options(location="eu/de/berlin")
    placement, found = Placement(Random(1)), []
    for _ in range(6):
        nearest = placement.choose(candidates, Strategy.GEOGRAPHIC, "code", options)
        assert nearest is not None
        nearest.load += 1
        found.append(str(nearest.node_id))
    assert (found[:2], sorted(found[2:4]), sorted(found[4:])) == (
        ["city", "germany"],
        ["europe", "odd"],
        ["far", "nowhere"],
    )


def test_without_a_location_everybody_is_as_near() -> None:
    """The least loaded is chosen then."""
    candidates = trio()
    candidates[0].labels, candidates[0].load = {"location": "eu"}, 3
    placement = Placement(Random(1))
    assert granted(placement, candidates, Strategy.GEOGRAPHIC, 2, options=None) in ("be", "eb")
    assert granted(placement, candidates, Strategy.GEOGRAPHIC, 2, options=Options(prefer=(("x", "y"),))) in ("be", "eb")


# --- what tasks prefer ------------------------------------------------------------------------------------------------


def test_whoever_has_most_of_the_preferred_labels_comes_first() -> None:
    """E.16: a wish is no condition. When those are full the others will do, by the strategy among equals."""
    ana, ben, eva = candidates = trio(slots=1)
    ana.labels, ben.labels = {"gpu": "yes"}, {"gpu": "yes", "zone": "b"}
    options = Options(prefer=(("gpu", "yes"), ("zone", "b")))
    assert granted(Placement(Random(1)), candidates, Strategy.LEAST_CONNECTIONS, 4, options=options) == "bae-"
    assert eva.load == 1


def test_the_holder_of_a_word_comes_before_what_is_preferred_as_long_as_it_is_free() -> None:
    ana, ben, eva = candidates = trio(slots=2)
    ana.load, ben.labels = 1, {"gpu": "yes"}
    options = Options(sticky="w", prefer=(("gpu", "yes"),))
    placement = Placement(Random(1))
    assert granted(placement, candidates, Strategy.ROUND_ROBIN, 4, options=options, holder=ana.node_id) == "abbe"
    # A holder that is not among those that may have the task is none; a word without a holder is no wish.
    for candidate in candidates:
        candidate.load = 0
    assert granted(placement, [ben, eva], Strategy.LEAST_CONNECTIONS, 2, options=options, holder=ana.node_id) == "bb"
    for candidate in candidates:
        candidate.load = 0
    word = Options(sticky="w")
    assert sorted(granted(placement, candidates, Strategy.LEAST_CONNECTIONS, 3, options=word)) == ["a", "b", "e"]


# --- why not ----------------------------------------------------------------------------------------------------------


def test_each_reason_a_demand_gives_against_a_node_is_named() -> None:
    """S4-26, C24: type, labels, version, word, score, breaker."""
    kinds = ("typed", "lacks", "has", "old", "other", "ill", "shut", "fits")
    nodes = {name: node(name) for name in kinds}
    for one in nodes.values():
        one.labels = {"type": "worker", "gpu": "yes", "node": one.node_id}
        one.versions = {"code": "2"}
    nodes["typed"].labels["type"] = "consumer"
    del nodes["lacks"].labels["gpu"]
    nodes["has"].labels["zone"] = "b"
    nodes["old"].versions = {}
    nodes["ill"].score_permille, nodes["ill"].causes = 350, ("a (-0.40)", "b (-0.25)")
    demand = Demand("code", (("type", "worker"), ("gpu", "yes")), (("zone", "b"),), "2")
    shut = {NodeId("shut"): "its breaker for 'code' is open"}
    verdicts = {verdict.node: verdict for verdict in explain(list(nodes.values()), demand, 500, None, shut)}
    assert verdicts["typed"] == NodeVerdict("typed", False, "has type='consumer', not 'worker'", "type")
    assert verdicts["lacks"] == NodeVerdict("lacks", False, "has gpu='', not 'yes'", "labels")
    assert verdicts["has"] == NodeVerdict("has", False, "has zone='b', which the task avoids", "labels")
    assert verdicts["old"] == NodeVerdict("old", False, "has version none of 'code', not 2", "version")
    assert verdicts["ill"] == NodeVerdict(
        "ill", False, "has a health score of 0.35, less than 0.50: a (-0.40); b (-0.25)", "score"
    )
    assert verdicts["shut"] == NodeVerdict("shut", False, "its breaker for 'code' is open", "breaker")
    assert verdicts["fits"] == NodeVerdict("fits", True, "fits")
    sticky = Demand("code", sticky="w")
    assert explain([nodes["other"], nodes["fits"]], sticky, 500, NodeId("fits")) == [
        NodeVerdict("other", False, "is not fits, where tasks with sticky='w' go", "sticky"),
        NodeVerdict("fits", True, "fits"),
    ]
    assert explain([nodes["other"]], sticky, 500, None) == [NodeVerdict("other", True, "fits")]
