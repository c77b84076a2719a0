"""The nodes as the leader sees them: who meets a demand, who fares how (S4-26, E.16, E.28)."""

from typing import Any

import pytest

from mesh.dispatch import candidates as candidates_module
from mesh.dispatch.candidates import SAMPLE_EVERY, Candidates
from mesh.dispatch.in_flight import InFlight
from mesh.ids import NodeId, TaskId
from mesh.ledger.commands import AdmitNode, DrainNode, FailNode, GrantLease, SetSetting
from mesh.ledger.queue import Demand
from mesh.messages import Failure
from mesh.options import Options
from tests.dispatch.cast import ANA, BEN, EVA, Office, spec

GPU = (("gpu", "yes"),)


def meeting(office: Office, **wanted: Any) -> list[str]:
    """Who may have a `code` task that demands this."""
    demand = Demand("code", **wanted) if wanted else "code"
    return [candidate.node_id for candidate in office.dispatcher._nodes.meeting(demand)]


def labelled() -> Office:
    """ana has a graphics card and the older handler, ben neither, eva both a card and the newer one."""
    office = Office(ANA, BEN, EVA)
    office.beat(ANA, labels=GPU, versions=(("code", "1"),), kind="worker")
    office.beat(EVA, labels=(*GPU, ("zone", "b")), versions=(("code", "2"),), kind="provider")
    return office


# --- who meets a demand -----------------------------------------------------------------------------------------------


def test_labels_that_are_required_are_all_there_and_none_that_is_avoided() -> None:
    """E.16. `node` and `type` are labels that every node has (S4-26: type matches)."""
    office = labelled()
    assert meeting(office) == ["ana", "ben", "eva"]
    assert meeting(office, require=GPU) == ["ana", "eva"]
    assert meeting(office, require=(*GPU, ("zone", "b"))) == ["eva"]
    assert meeting(office, require=(("gpu", "no"),)) == []
    assert meeting(office, avoid=GPU) == ["ben"]
    assert meeting(office, avoid=(("zone", "b"), ("node", "ana"))) == ["ben"]
    assert meeting(office, require=(("type", "worker"),)) == ["ana"]
    assert meeting(office, require=(("node", "ben"),)) == ["ben"]


def test_a_node_cannot_call_itself_by_anothers_name() -> None:
    """Whatever labels it was given: `node` is its id, `type` what it is there for."""
    office = Office(ANA, BEN)
    office.beat(BEN, labels=(("node", "ana"), ("type", "worker")), kind="consumer")
    assert meeting(office, require=(("node", "ana"),)) == ["ana"]
    assert meeting(office, require=(("type", "consumer"),)) == ["ben"]


def test_a_version_is_asked_for_by_name() -> None:
    """E.28: any will do where none is asked for; one that nobody has is nobody's."""
    office = labelled()
    assert [meeting(office, version=version) for version in ("1", "2", "3")] == [["ana"], ["eva"], []]


def test_who_cannot_be_granted_anything_meets_nothing() -> None:
    """S4-26, S0-01: draining by order or of itself, given up, of another incarnation, without the capability."""
    office = Office(ANA, BEN, EVA)
    office.commit([DrainNode(ANA, True)])
    assert meeting(office) == ["ben", "eva"]
    office.beat(BEN, draining=True)
    assert meeting(office) == ["eva"]
    office.commit([FailNode(EVA, 1, "silent")])
    assert meeting(office) == []
    office.commit([DrainNode(ANA, False), AdmitNode(EVA, 1)])
    office.beat(BEN, draining=False, capabilities=("mail",))
    # eva has not told this leader what she runs since she was given up.
    assert meeting(office) == ["ana"]


def test_what_is_offered_is_what_any_of_them_can_do() -> None:
    office = Office(ANA, BEN)
    office.beat(BEN, capabilities=("paint", "mail"))
    assert list(office.dispatcher._nodes.offered) == ["code", "draft", "mail", "paint"]


def test_a_score_below_the_threshold_keeps_a_node_out_until_it_is_lowered() -> None:
    """S4-26, S4-31: the threshold is a committed setting, and counts at once."""
    office = Office(ANA, BEN)
    office.beat(BEN, cpu_permille=990, memory_permille=990)
    assert meeting(office) == ["ana", "ben"]
    office.commit([SetSetting("health_permille_min", 751)])
    assert meeting(office) == ["ana"]
    assert office.dispatcher.candidates[BEN].causes == (
        "its processors are 99 % busy (-0.10)",
        "its memory is 99 % full (-0.15)",
    )
    office.commit([SetSetting("health_permille_min", 750)])
    assert meeting(office) == ["ana", "ben"]


# --- who sticks where -------------------------------------------------------------------------------------------------


def test_tasks_with_a_word_go_where_the_last_of_them_went() -> None:
    """E.16, soft: as long as that node is free; then elsewhere, and the next ones go there."""
    office = Office(ANA, BEN, EVA)
    word = Options(sticky="session")
    office.put(spec("a", word))
    assert office.grants() == [("a", "ana")]
    office.put(spec("x"), spec("b", word))
    assert sorted(office.grants()) == [("b", "ana"), ("x", "ben")]
    office.put(spec("c", word))
    assert office.grants() == [("c", "eva")]
    office.put(spec("d", word))
    assert office.grants() == [("d", "eva")]


def test_tasks_that_must_stick_wait_for_their_node() -> None:
    """Hard: nowhere else, be it full; the first of them goes anywhere."""
    office = Office(ANA, BEN)
    word = Options(sticky="session", is_sticky_hard=True)
    office.put(spec("a", word), spec("b", word), spec("c", word))
    assert office.grants() == [("a", "ana"), ("b", "ana")]
    assert office.grants() == []
    office.done("a")
    assert office.grants() == [("c", "ana")]


def test_they_stick_though_the_first_grant_has_not_been_applied_yet() -> None:
    """In one entry and over two of them, and soft ones granted with their submit as well."""
    office = Office(ANA, BEN, EVA, slots=3)
    hard = Options(sticky="x", is_sticky_hard=True)
    office.put(spec("a", hard))
    first = office.propose()
    office.put(spec("b", hard))
    second = office.propose()
    soft = Options(sticky="y")
    office.submit(spec("c", soft), spec("d", soft))
    third = office.propose()
    for entry in (first, second, third):
        office.commit(entry)
    assert office.holder("a") == office.holder("b")
    assert office.holder("c") == office.holder("d")


def test_when_the_holder_is_gone_they_go_elsewhere() -> None:
    """And the next ones after them; when the first holder is back it is no holder any more."""
    office = Office(ANA, BEN)
    word = Options(sticky="session", is_sticky_hard=True)
    office.put(spec("a", word))
    office.turn()
    office.commit([FailNode(ANA, 1, "silent")])
    assert office.grants() == [("a", "ben")]
    office.commit([AdmitNode(ANA, 1)])
    office.put(spec("b", word))
    assert office.grants() == [("b", "ben")]


def test_a_word_outlives_a_change_of_leader() -> None:
    office = Office(ANA, BEN, EVA)
    word = Options(sticky="session")
    office.put(spec("x"), spec("a", word))
    office.turn()
    where = office.holder("a")
    office.dispatcher.leave_office()
    office.lead(seed=9)
    office.put(spec("b", word))
    assert office.grants() == [("b", where)]


def test_the_grant_that_is_on_its_way_counts_more_than_the_last_one() -> None:
    """And no word is nobody's."""
    office = Office(ANA, BEN)
    flight = InFlight()
    nodes = Candidates(office.ledger, office.detector, flight)
    office.put(spec("a", Options(sticky="w")))
    office.commit([GrantLease(TaskId("a"), ANA)])
    assert (nodes.holder("w"), nodes.holder("v"), nodes.holder("")) == (ANA, None, None)
    flight.grant(TaskId("b"), BEN)
    flight.count(TaskId("b"), Options(sticky="w"), BEN)
    assert nodes.holder("w") == BEN


# --- how they fare ----------------------------------------------------------------------------------------------------


def run(office: Office, name: str, *, took_ms: int, error: str = "", failure: Failure = Failure.HANDLER) -> None:
    """A task is granted and, so much later, reported."""
    office.submit(spec(name))
    office.turn()
    office.at_ms += took_ms
    office.propose()  # So that the desk knows the time.
    office.done(name, error=error, failure=failure)
    office.turn()


def test_one_attempt_in_so_many_is_timed() -> None:
    """For the weighted strategy (S4-21): the first measurement counts whole, later ones for an eighth."""
    assert SAMPLE_EVERY == 16
    office = Office(ANA)
    for number in range(15):
        run(office, f"t{number}", took_ms=5_000)
    ana = office.dispatcher.candidates[ANA]
    assert ana.mean_ms == {}
    run(office, "timed", took_ms=800)
    assert ana.mean_ms == {"code": 800}
    for number in range(15):
        run(office, f"u{number}", took_ms=5_000)
    run(office, "timed again", took_ms=1_600)
    assert ana.mean_ms == {"code": 900}
    office.beat(ANA)
    assert office.dispatcher.candidates[ANA].mean_ms == {"code": 900}


def test_failures_show_in_the_score_and_fade() -> None:
    """Its latest attempts: each counts for an eighth. A disturbance is nobody's fault."""
    office = Office(ANA)
    office.commit([SetSetting("breaker_failures", 0)])

    def points() -> int:
        office.dispatcher.refresh()
        return office.dispatcher.candidates[ANA].score_permille

    run(office, "a", took_ms=1, error="E: no")
    assert points() == 950
    run(office, "b", took_ms=1, error="E: no", failure=Failure.DISTURBED)
    assert points() == 957
    for number in range(60):
        run(office, f"t{number}", took_ms=1)
    assert (points(), office.dispatcher._nodes.is_measuring) == (1_000, False)
    for number in range(60):
        run(office, f"u{number}", took_ms=1, error="E: no")
    assert 600 <= points() <= 605


def test_what_never_ends_where_it_was_timed_makes_way_for_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are timed at once here. Cancelled tasks report nothing: they must not keep others from being measured for
    ever."""
    assert candidates_module.SAMPLES_MAX == 1_000
    monkeypatch.setattr(candidates_module, "SAMPLES_MAX", 2)
    office = Office(ANA)
    nodes = office.dispatcher._nodes
    for number in range(3):
        nodes.time(TaskId(f"t{number}"), ANA, "code", 1_000 * number)
    for number in range(3):
        nodes.reported(TaskId(f"t{number}"), ANA, 9_000, has_failed=False)
    assert office.dispatcher.candidates[ANA].mean_ms == {"code": (8_000 * 7 + 7_000) // 8}
    assert not nodes.is_measuring


def test_a_report_from_elsewhere_measures_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task was lost and granted again; or its node is gone; or too many capabilities have been measured there."""
    office = Office(ANA, BEN)
    nodes = office.dispatcher._nodes
    nodes.time(TaskId("a"), ANA, "code", 0)
    nodes.reported(TaskId("a"), BEN, 9_000, has_failed=False)
    nodes.time(TaskId("b"), NodeId("stranger"), "code", 0)
    nodes.reported(TaskId("b"), NodeId("stranger"), 9_000, has_failed=True)
    nodes.time(TaskId("x"), ANA, "code", 0)
    nodes.reported(TaskId("c"), ANA, 9_000, has_failed=False)
    monkeypatch.setattr(candidates_module, "MEANS_MAX", 1)
    for name, capability in (("x", "code"), ("y", "mail")):
        nodes.time(TaskId(name), ANA, capability, 0)
        nodes.reported(TaskId(name), ANA, 9_000, has_failed=False)
    found = office.dispatcher.candidates
    assert (found[ANA].mean_ms, found[BEN].mean_ms) == ({"code": 9_000}, {})
