"""What is proposed and not yet applied counts as if it were: by key, by node, by breaker, by word."""

from mesh.dispatch.in_flight import InFlight
from mesh.ids import NodeId, TaskId
from mesh.ledger.commands import (
    CancelTask,
    CloseBreaker,
    DrainNode,
    FailNode,
    GrantLease,
    PauseQueue,
    Reprioritize,
    SetSetting,
)
from mesh.options import Concurrency, Options, Rate
from tests.dispatch.cast import ANA, BEN, EVA, Office, grants, spec

A, B, C = TaskId("a"), TaskId("b"), TaskId("c")


def keyed(limit: int, key: str = "door") -> Options:
    return Options(concurrency=Concurrency(key, limit))


def rated(limit: int, per_ms: int = 1_000) -> Options:
    return Options(rates=(Rate("api", limit, per_ms),))


# --- the book itself --------------------------------------------------------------------------------------------------


def test_a_grant_counts_under_each_of_its_keys_once_until_it_is_settled() -> None:
    """The same key twice, as a burst and for longer, is one grant of it."""
    flight = InFlight()
    both = Options(concurrency=Concurrency("k", 2), rates=(Rate("k", 1, 10), Rate("k", 5, 99), Rate("m", 1, 10)))
    flight.grant(A, ANA)
    flight.count(A, both, ANA)
    flight.grant(B, BEN)
    flight.count(B, keyed(2, "k"), BEN)
    assert [flight.under("concurrency", "k"), flight.under("rate", "k"), flight.under("rate", "m")] == [2, 1, 1]
    assert flight.settle(A) == ANA
    assert [flight.under("concurrency", "k"), flight.under("rate", "k"), flight.under("rate", "m")] == [1, 0, 0]
    assert (flight.settle(A), flight.settle(B), flight.settle(C)) == (None, BEN, None)
    assert flight.under("concurrency", "k") == 0


def test_a_task_without_keys_is_in_no_book() -> None:
    flight = InFlight()
    flight.grant(A, ANA)
    flight.count(A, Options(fairness="eva"), ANA)
    assert (flight.settle(A), flight.granting) == (ANA, {})


def test_probes_are_counted_by_node_and_capability() -> None:
    flight = InFlight()
    for name in (A, B):
        flight.grant(name, ANA)
        flight.probe(name, ANA, "code")
    assert flight.probing == {(ANA, "code"): 2}
    flight.settle(A)
    assert flight.probing == {(ANA, "code"): 1}
    flight.settle(C)
    flight.settle(B)
    assert flight.probing == {}


def test_where_a_word_goes_is_known_before_it_is_applied() -> None:
    """As long as one of its grants is on its way."""
    flight = InFlight()
    assert flight.holder("w") is None
    for name, node in ((A, ANA), (B, BEN)):
        flight.grant(name, node)
        flight.count(name, Options(sticky="w"), node)
    assert (flight.holder("w"), flight.holder("v")) == (BEN, None)
    flight.settle(A)
    assert flight.holder("w") == BEN
    flight.settle(B)
    assert flight.holder("w") is None


def test_everything_is_forgotten_with_the_office() -> None:
    """What was taken from the queue is told, to be put back."""
    flight = InFlight()
    flight.grant(A, ANA)
    flight.count(A, keyed(1), ANA)
    flight.probe(A, ANA, "code")
    flight.falls(B)
    flight.falls(B)
    flight.fell(B)
    assert list(flight.falling) == [B]
    assert flight.clear() == [A, B]
    assert (flight.granting, flight.falling, flight.probing, flight.under("concurrency", "door")) == ({}, {}, {}, 0)
    flight.fell(B)


# --- at the desk ------------------------------------------------------------------------------------------------------


def test_what_is_on_its_way_counts_under_its_key() -> None:
    """E.6: two of a key of two are in one entry, that is not yet applied; the next entry holds none of it."""
    office = Office(ANA, BEN, EVA)
    office.put(*(spec(name, keyed(2)) for name in "abc"))
    first = office.propose()
    assert grants(first) == [("a", "ana"), ("b", "ben")]
    assert grants(office.propose()) == []
    office.commit(first)
    assert office.grants() == []
    office.done("a")
    office.turn()
    assert office.grants() == [("c", "eva")]


def test_lanes_that_share_a_key_share_its_room_within_an_entry() -> None:
    """Two capabilities and two fairness keys, one concurrency key of two, one rate of two: nothing is proposed that is
    bound to be refused."""
    for options in (keyed(2), rated(2)):
        office = Office(ANA, BEN, EVA)
        fair = Options(concurrency=options.concurrency, rates=options.rates, fairness="eva")
        office.put(spec("a", options), spec("b", options, capability="mail"), spec("c", fair), spec("d", fair))
        assert office.grants() == [("a", "ana"), ("b", "ben")]
        assert set(office.applied.outcomes) == {0}
        assert office.grants() == []


def test_a_key_is_not_exceeded_when_the_leader_changes() -> None:
    """E.23, gate 10: boss had two grants of a key of two on their way when another leader took over, who sees two free
    places and grants two others. Whichever comes first, two are let through and two are not, and wait on."""
    for options in (keyed(2), rated(2)):
        for is_old_first in (True, False):
            office = Office(ANA, BEN)
            office.put(*(spec(name, options, priority=number) for number, name in enumerate("abcd")))
            old = office.propose()
            office.commit([Reprioritize(TaskId(name), 9) for name in "ab"])
            office.dispatcher.leave_office()
            office.lead()
            new = office.propose()
            assert [name for name, _ in grants(old)] == ["a", "b"]
            assert [name for name, _ in grants(new)] == ["c", "d"]
            for entry in (old, new) if is_old_first else (new, old):
                office.commit(entry)
            assert [office.state(name) for name in "abcd"].count("dispatched") == 2
            assert office.grants() == []
            assert len(list(office.ledger.queue.ready())) == 2


def test_a_rate_lets_the_next_one_go_when_its_time_has_come_and_the_desk_knows_when() -> None:
    """Gate 10, exactly at a change of leader as well: the table remembers."""
    office = Office(ANA, BEN)
    office.put(*(spec(name, rated(1, 2_000)) for name in "abc"))
    assert len(office.grants(10_000)) == 1
    assert (office.grants(10_500), office.dispatcher.wake_ms) == ([], 12_000)
    office.dispatcher.leave_office()
    office.lead()
    assert (office.grants(11_999), office.dispatcher.wake_ms) == ([], 12_000)
    assert len(office.grants(12_000)) == 1
    office.turn()
    assert office.dispatcher.wake_ms == 14_000


def test_a_pause_is_waited_out() -> None:
    """Until 15,000; or, without an end, until somebody resumes it, which is nothing to wake for."""
    office = Office(ANA)
    office.commit([PauseQueue("code", 15_000, "429"), PauseQueue("mail", 0, "")])
    office.put(spec("a"), spec("m", capability="mail"))
    assert (office.grants(), office.dispatcher.wake_ms) == ([], 15_000)
    office.submit(spec("b"))
    assert office.grants(14_999) == []
    assert office.grants(15_000) == [("a", "ana"), ("b", "ana")]
    assert office.dispatcher.wake_ms is None


def test_a_priority_that_changes_while_a_grant_is_on_its_way_makes_no_second_grant() -> None:
    """The task was taken out of the line. Were it put back, a second grant would count under its key for ever."""
    office = Office(ANA, BEN)
    office.put(spec("a", keyed(1)), spec("b", keyed(1)))
    granted = office.propose()
    office.commit([Reprioritize(A, 1)])
    assert grants(office.propose()) == []
    office.commit(granted)
    assert office.loads() == {"ana": 1, "ben": 0}
    office.done("a")
    office.turn()
    office.turn()
    assert office.state("b") == "dispatched"


def test_a_grant_that_does_not_hold_gives_back_what_it_counted_for() -> None:
    """The node begins to drain, or the task ends, in an entry before it."""
    office = Office(ANA)
    office.put(spec("a", Options(concurrency=Concurrency("door", 1), sticky="w")), spec("b", keyed(1)))
    granted = office.propose()
    office.commit([DrainNode(ANA, True)])
    office.commit(granted)
    office.commit([DrainNode(ANA, False)])
    again = office.propose()
    assert grants(again) == [("a", "ana")]
    office.commit([CancelTask(A, "")])
    office.commit(again)
    assert (office.loads(), office.grants()) == ({"ana": 0}, [("b", "ana")])


def test_a_grant_that_does_not_hold_for_a_node_that_is_gone_for_good() -> None:
    """ben was given up by hand, and removed from the mesh, before the grant to him came to be applied."""
    office = Office(BEN)
    office.put(spec("a"))
    granted = office.propose()
    office.detector.remove(BEN, 2)
    office.dispatcher.refresh()
    office.commit([FailNode(BEN, 1, "by hand")])
    office.commit(granted)
    assert [task.task_id for task in office.ledger.queue.ready()] == ["a"]


def test_one_probe_is_on_its_way_at_a_time() -> None:
    """S2-22, bug 3: the breaker is half-open. Two entries are made before the first is applied; then the ledger says
    that the probe is out; when it went well the next one goes."""
    office = Office(ANA)
    office.commit([SetSetting("breaker_failures", 1), SetSetting("breaker_open_ms", 5_000)])
    office.put(spec("bad", attempts_max=1))
    office.turn()
    office.done("bad", error="E: no")
    office.turn()
    office.put(spec("a"), spec("b"), spec("m", capability="mail"))
    assert (office.grants(), office.dispatcher.wake_ms) == ([("m", "ana")], 15_000)
    office.at_ms = 15_000
    probe = office.propose()
    office.submit(spec("c"))
    assert (grants(probe), grants(office.propose())) == ([("a", "ana")], [])
    office.commit(probe)
    assert (office.grants(20_000), office.dispatcher.wake_ms) == ([], None)
    office.done("a")
    office.turn()
    assert office.grants() == [("b", "ana")]


def test_a_breaker_that_opens_while_a_grant_is_on_its_way_refuses_it() -> None:
    """The task waits on, and goes elsewhere."""
    office = Office(ANA, BEN, slots=1)
    office.commit([SetSetting("breaker_failures", 1)])
    office.put(spec("bad", attempts_max=1), spec("busy"))
    office.turn()
    office.put(spec("a"))
    office.done("bad", error="E: no")
    crossing = office.propose()
    assert grants(crossing) == [("a", "ana")]
    office.commit(crossing)
    assert (office.loads()["ana"], office.grants()) == (0, [])
    office.done("busy")
    office.turn()
    assert office.holder("a") == "ben"


def test_a_breaker_closed_by_hand_while_its_probe_is_on_its_way_can_be_asked_about() -> None:
    """There is none any more, but for what is on its way."""
    office = Office(ANA)
    office.commit([SetSetting("breaker_failures", 1), SetSetting("breaker_open_ms", 1_000)])
    for capability in ("code", "mail"):
        office.put(spec(capability, capability=capability, attempts_max=1))
        office.turn()
        office.done(capability, error="E: no")
        office.turn()
    office.put(spec("a"), spec("b"))
    office.at_ms = 20_000
    assert grants(office.propose()) == [("a", "ana")]
    office.commit([CloseBreaker(ANA, "code")])
    verdicts, words = office.dispatcher.explanation(office.ledger.tasks[B], 20_000)
    assert [(verdict.filter, verdict.why) for verdict in verdicts if verdict.node == "ana"] == [
        ("breaker", "its breaker for 'code' is half_open")
    ]
    assert words == []


def test_what_raft_refuses_counts_no_more() -> None:
    """Keys, probes and words alike: the same is proposed again."""
    office = Office(ANA)
    options = Options(concurrency=Concurrency("door", 1), sticky="w")
    office.put(spec("a", options), spec("b", options))
    proposed = office.propose()
    office.dispatcher.proposal_refused(proposed)
    assert office.propose() == proposed == [GrantLease(A, NodeId("ana"))]
