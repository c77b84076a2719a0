"""What keeps a task from being granted though a node is free: concurrency keys, rates, paused queues (E.6, E.7).

ana and ben are free throughout; what is refused is refused for the limit's sake.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.ids import FencingToken, NodeId, TaskId
from mesh.ledger import limits, registry
from mesh.ledger.applied import ALREADY, DONE, REFUSED
from mesh.ledger.commands import (
    AdmitNode,
    CancelTask,
    Command,
    FailNode,
    GrantLease,
    LeaveNode,
    PauseQueue,
    ReleaseLease,
    ResumeQueue,
)
from mesh.ledger.registry import Pause, Window
from mesh.options import Concurrency, Options, Rate, WhenFull
from tests.ledger.cast import ANA, BEN, Log, complete, fail, grant, kinds, levelled, spec, start, submit

NAMES = [TaskId(name) for name in ("amy", "bob", "cid", "dan", "eli", "fay")]
AMY, BOB, CID, DAN, ELI, FAY = NAMES


def keyed(limit: int, when_full: int = WhenFull.QUEUE, key: str = "door") -> Options:
    return Options(concurrency=Concurrency(key, limit, when_full))


def rated(*rates: tuple[int, int], key: str = "api") -> Options:
    return Options(rates=tuple(Rate(key, limit, per_ms) for limit, per_ms in rates))


def outcomes(log: Log, *commands: Command, at_ms: int | None = None) -> list[int]:
    return list(log.apply(*commands, at_ms=at_ms).outcomes)


# --- concurrency keys -------------------------------------------------------------------------------------------------


def test_a_key_is_never_above_its_limit_not_even_within_one_entry() -> None:
    """E.6: four of a key of two, all granted in the entry that submits them, to two nodes; two come to nothing."""
    log = levelled(ANA, BEN)
    four = NAMES[:4]
    found = outcomes(
        log,
        *(submit(name, options=keyed(2)) for name in four),
        *(grant(name, node) for name, node in zip(four, (ANA, BEN, ANA, BEN), strict=True)),
    )
    assert found == [DONE] * 6 + [REFUSED] * 2
    assert log.ledger.treated.holding == {"door": 2}
    assert [log.state(name) for name in four] == ["dispatched", "dispatched", "pending", "pending"]


@pytest.mark.parametrize(
    "ending",
    [
        complete(AMY, 3),
        fail(AMY, 3),
        fail(AMY, 3, final=True),
        ReleaseLease(AMY, FencingToken(3), "drain"),
        CancelTask(AMY, "no"),
        FailNode(ANA, 1, "silent"),
        LeaveNode(ANA, 1),
        AdmitNode(ANA, 2),
    ],
)
def test_whatever_ends_the_lease_frees_the_key(ending: Command) -> None:
    """A slot is tied to the lease, so a crash frees it (E.6). Until then the next one waits; the same entry will do."""
    log = levelled(ANA, BEN)
    log.apply(submit(AMY, options=keyed(1)), submit(BOB, options=keyed(1)), grant(AMY, ANA))
    log.apply(start(AMY, 3))
    assert outcomes(log, grant(BOB, BEN), ending, grant(BOB, BEN)) == [REFUSED, DONE, DONE]
    assert log.ledger.treated.holding == {"door": 1}


def test_a_key_counts_whatever_the_capability_and_each_by_its_own_limit() -> None:
    """bob asks for no more than one at once, cid for no more than three: amy's lease counts for both."""
    log = levelled(ANA)
    log.apply(
        submit(AMY, options=keyed(3)),
        submit(BOB, options=keyed(1)),
        submit(CID, options=keyed(3), capability="mail"),
        submit(DAN, options=keyed(1, key="window")),
        grant(AMY, ANA),
    )
    assert outcomes(log, grant(BOB, ANA), grant(CID, ANA), grant(DAN, ANA)) == [REFUSED, DONE, DONE]


def test_a_full_key_queues_what_is_submitted() -> None:
    """The ordinary way: it waits."""
    log = levelled(ANA)
    log.apply(submit(AMY, options=keyed(1)), grant(AMY, ANA))
    assert outcomes(log, submit(BOB, options=keyed(1))) == [DONE]
    assert log.state(BOB) == "pending"


def test_a_full_key_rejects_what_is_submitted() -> None:
    """Nothing is left of it; the same submit is taken once there is room. A repeat of what was taken is no new one."""
    log = levelled(ANA)
    options = keyed(1, WhenFull.REJECT)
    log.apply(submit(AMY, options=options), grant(AMY, ANA))
    turned_down = log.apply(submit(BOB, options=options), submit(AMY, options=options))
    assert (list(turned_down.outcomes), turned_down.turned_down, turned_down.submitted) == (
        [REFUSED, ALREADY],
        [BOB],
        [AMY],
    )
    assert BOB not in log.ledger.tasks
    log.apply(complete(AMY, 3))
    assert outcomes(log, submit(BOB, options=options)) == [DONE]


def test_a_full_key_ends_the_newest_at_once() -> None:
    """bob is accepted, and cancelled in the same breath; he can be neither granted nor submitted again."""
    log = levelled(ANA)
    options = keyed(1, WhenFull.CANCEL_NEWEST)
    log.apply(submit(AMY, options=options))
    came = log.apply(submit(BOB, options=options), grant(BOB, ANA), submit(BOB, options=options))
    assert (kinds(came), came.submitted) == (["task_submitted", "task_cancelled"], [BOB, BOB])
    assert came.outcomes[0] == DONE
    assert (came.events[1].detail, log.state(BOB)) == ("concurrency key 'door' is full", "cancelled")
    assert (log.state(AMY), list(log.ledger.treated.under["door"])) == ("pending", [AMY])
    first = log.ledger.queue.lane(next(iter(log.ledger.queue.lanes)))
    assert first is not None and first.oldest().task_id == AMY


def test_a_full_key_lets_the_oldest_make_room() -> None:
    """amy runs and is told to stop; her slot is bob's in the same entry, and cid drives him out in turn."""
    log = levelled(ANA)
    options = keyed(1, WhenFull.CANCEL_OLDEST)
    log.apply(submit(AMY, options=options), grant(AMY, ANA))
    came = log.apply(submit(BOB, options=options), grant(BOB, ANA))
    assert list(came.outcomes) == [DONE, DONE]
    assert [(ended.task_id, ended.token) for ended in came.ended] == [(AMY, 3)]
    assert kinds(came) == ["task_submitted", "task_cancelled", "task_dispatched"]
    assert outcomes(log, submit(CID, options=options)) == [DONE]
    assert [log.state(name) for name in (AMY, BOB, CID)] == ["cancelled", "cancelled", "pending"]
    assert log.ledger.treated.holding == {}


def test_the_oldest_is_whoever_came_first_of_all_that_live() -> None:
    """Waiting ones count, and those put off; what has ended does not. A wider limit lets more live."""
    log = levelled(ANA)
    options = keyed(3, WhenFull.CANCEL_OLDEST)
    log.apply(*(submit(name, options=options) for name in (AMY, BOB)), grant(AMY, ANA))
    log.apply(complete(AMY, 3))
    later = spec(CID, options=options, not_before_ms=90_000)
    log.apply(type(submit(CID))(later), submit(DAN, options=options))
    log.apply(submit(ELI, options=options))
    assert [log.state(name) for name in NAMES[1:5]] == ["cancelled", "scheduled", "pending", "pending"]


# --- rates ------------------------------------------------------------------------------------------------------------


def test_a_rate_is_exact_to_the_millisecond() -> None:
    """E.7: two in a second. The third waits until the first is a second old; one millisecond before, it is refused."""
    log = levelled(ANA)
    log.apply(*(submit(name, options=rated((2, 1_000))) for name in NAMES[:4]), at_ms=5_000)
    assert outcomes(log, grant(AMY, ANA), at_ms=5_000) == [DONE]
    assert outcomes(log, grant(BOB, ANA), grant(CID, ANA), at_ms=5_400) == [DONE, REFUSED]
    assert outcomes(log, grant(CID, ANA), at_ms=5_999) == [REFUSED]
    assert outcomes(log, grant(CID, ANA), grant(DAN, ANA), at_ms=6_000) == [DONE, REFUSED]
    assert outcomes(log, grant(DAN, ANA), at_ms=6_399) == [REFUSED]
    assert outcomes(log, grant(DAN, ANA), at_ms=6_400) == [DONE]


def test_a_grant_counts_for_a_rate_though_it_comes_to_nothing() -> None:
    """What was granted has been let through; that it is given back changes nothing."""
    log = levelled(ANA)
    log.apply(submit(AMY, options=rated((1, 1_000))), grant(AMY, ANA), at_ms=5_000)
    assert outcomes(log, ReleaseLease(AMY, FencingToken(3), "x"), grant(AMY, ANA), at_ms=5_999) == [DONE, REFUSED]
    assert outcomes(log, grant(AMY, ANA), at_ms=6_000) == [DONE]


def test_a_task_may_be_under_several_rates_even_of_one_key() -> None:
    """A burst of two a second, three in ten: each grant counts once, and both hold."""
    log = levelled(ANA)
    both = rated((2, 1_000), (3, 10_000))
    log.apply(*(submit(name, options=both) for name in NAMES[:5]), at_ms=5_000)
    assert outcomes(log, *(grant(name, ANA) for name in NAMES[:3]), at_ms=5_000) == [DONE, DONE, REFUSED]
    assert outcomes(log, grant(CID, ANA), grant(DAN, ANA), at_ms=6_000) == [DONE, REFUSED]
    assert outcomes(log, grant(DAN, ANA), at_ms=14_999) == [REFUSED]
    assert outcomes(log, grant(DAN, ANA), grant(ELI, ANA), at_ms=15_000) == [DONE, DONE]
    assert log.ledger.rates["api"] == Window(3, 10_000, [6_000, 15_000, 15_000], 5_000)


def test_a_wider_limit_of_a_key_is_held_although_less_was_remembered() -> None:
    """One a second went for four seconds, and only the last is on record, when bob names two in ten: he waits until
    what is not known any more is ten seconds old. Three a second, for which all is known that matters, need not."""
    log = levelled(ANA)
    narrow, wide, wider = rated((1, 1_000)), rated((2, 10_000)), rated((3, 1_000))
    names = [TaskId(f"n{second}") for second in range(4)]
    log.apply(*(submit(name, options=narrow) for name in names), at_ms=5_000)
    for second, name in enumerate(names):
        assert outcomes(log, grant(name, ANA), at_ms=1_000 * second + 5_000) == [DONE]
    assert log.ledger.rates["api"] == Window(1, 1_000, [8_000], 7_000)
    log.apply(*(submit(name, options=wide) for name in (BOB, CID)), submit(DAN, options=wider), at_ms=8_000)
    assert outcomes(log, grant(BOB, ANA), at_ms=16_999) == [REFUSED]
    assert outcomes(log, grant(BOB, ANA), grant(CID, ANA), grant(DAN, ANA), at_ms=17_000) == [DONE, REFUSED, DONE]
    assert log.ledger.rates["api"] == Window(3, 10_000, [8_000, 17_000, 17_000], 7_000)


def test_with_as_many_keys_as_there_may_be_a_new_one_waits_for_an_old_one_to_be_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two keys are remembered here. Nothing is forgotten that a limit still hangs on."""
    assert registry.RATE_KEYS_MAX == 1_000
    monkeypatch.setattr(limits, "RATE_KEYS_MAX", 2)
    log = levelled(ANA)
    for name, key, per_ms in ((AMY, "a", 1_000), (BOB, "b", 5_000), (CID, "c", 1_000), (DAN, "a", 1_000)):
        log.apply(submit(name, options=rated((1, per_ms), key=key)), at_ms=5_000)
    assert (
        outcomes(log, *(grant(name, ANA) for name in (AMY, BOB, CID, DAN)), at_ms=5_000) == [DONE, DONE] + [REFUSED] * 2
    )
    assert outcomes(log, grant(CID, ANA), grant(DAN, ANA), at_ms=5_999) == [REFUSED, REFUSED]
    # `a` is over now; `c` takes its place, and what asks for `a` again must wait for one in turn.
    assert outcomes(log, grant(CID, ANA), grant(DAN, ANA), at_ms=6_000) == [DONE, REFUSED]
    assert sorted(log.ledger.rates) == ["b", "c"]
    assert outcomes(log, grant(DAN, ANA), at_ms=7_000) == [DONE]
    assert sorted(log.ledger.rates) == ["a", "b"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([10, 25, 60])), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), min_size=1, max_size=40),
)
def test_no_rate_is_exceeded_in_any_window(rates: list[tuple[int, int]], asked: list[tuple[int, int]]) -> None:
    """Gate 10. Tasks of one key, each under one of up to three limits: in no window of any of those that went through
    are there more grants than it allows, whoever they were made to."""
    log = levelled(ANA)
    at_ms = 1_000
    granted: list[tuple[int, tuple[int, int]]] = []
    for number, (which, pause_ms) in enumerate(asked):
        at_ms += pause_ms
        name, rate = TaskId(f"t{number}"), rates[which % len(rates)]
        applied = log.apply(submit(name, options=rated(rate)), grant(name, ANA), at_ms=at_ms)
        if applied.outcomes[1] == DONE:
            granted.append((at_ms, rate))
    assert granted
    for place, (end_ms, (limit, per_ms)) in enumerate(granted):
        assert sum(end_ms - then_ms < per_ms for then_ms, _ in granted[: place + 1]) <= limit


# --- pauses -----------------------------------------------------------------------------------------------------------


def test_a_paused_queue_is_granted_nothing_and_what_runs_goes_on() -> None:
    """E.7: until somebody resumes it. Other capabilities do not mind."""
    log = levelled(ANA)
    log.apply(submit(AMY), submit(BOB), submit(CID, capability="mail"), grant(AMY, ANA))
    paused = log.apply(PauseQueue("image", 0, "429"), grant(BOB, ANA), grant(CID, ANA))
    assert (list(paused.outcomes), kinds(paused)) == ([DONE, REFUSED, DONE], ["queue_paused", "task_dispatched"])
    assert outcomes(log, complete(AMY, 3), grant(BOB, ANA)) == [DONE, REFUSED]
    resumed = log.apply(ResumeQueue("image"), ResumeQueue("image"), grant(BOB, ANA))
    assert (list(resumed.outcomes), kinds(resumed)) == ([DONE, ALREADY, DONE], ["queue_resumed", "task_dispatched"])


def test_a_pause_with_an_end_ends_by_itself_at_its_millisecond() -> None:
    """Until 9,000: at 8,999 nothing, at 9,000 all. One that would have ended already is refused."""
    log = levelled(ANA)
    log.apply(submit(AMY), at_ms=5_000)
    assert outcomes(log, PauseQueue("image", 5_000, "late"), at_ms=5_000) == [REFUSED]
    assert outcomes(log, PauseQueue("image", 9_000, "429"), PauseQueue("image", 9_000, "429"), at_ms=5_001) == [
        DONE,
        ALREADY,
    ]
    assert outcomes(log, grant(AMY, ANA), at_ms=8_999) == [REFUSED]
    assert outcomes(log, grant(AMY, ANA), at_ms=9_000) == [DONE]


def test_another_pause_of_the_same_queue_takes_the_place_of_the_first() -> None:
    """Longer, shorter, or for good."""
    log = levelled(ANA)
    log.apply(submit(AMY), PauseQueue("image", 9_000, "a"), PauseQueue("image", 7_000, "b"), at_ms=5_000)
    assert log.ledger.pauses == {"image": Pause(7_000, "b")}
    assert outcomes(log, grant(AMY, ANA), at_ms=7_000) == [DONE]


def test_pauses_have_a_bound_and_those_that_are_over_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are kept here. A third is refused; once one has ended it is taken, and no other is forgotten."""
    monkeypatch.setattr("mesh.ledger.rulings.PAUSES_MAX", 2)
    log = levelled(ANA)
    log.apply(PauseQueue("a", 6_000, ""), PauseQueue("b", 0, ""), at_ms=5_000)
    assert outcomes(log, PauseQueue("c", 0, ""), PauseQueue("a", 6_500, ""), at_ms=5_999) == [REFUSED, DONE]
    assert outcomes(log, PauseQueue("c", 0, ""), at_ms=6_499) == [REFUSED]
    assert outcomes(log, PauseQueue("c", 0, ""), at_ms=6_500) == [DONE]
    assert sorted(log.ledger.pauses) == ["b", "c"]


# --- in words ---------------------------------------------------------------------------------------------------------


def test_what_holds_a_task_back_is_said_in_words() -> None:
    """C24: for `explain`. Nothing holds a plain task back, nor one whose limits have room."""
    log = levelled(ANA)
    options = Options(
        concurrency=Concurrency("door", 1), rates=(Rate("api", 1, 1_000), Rate("mail", 2, 60_000)), fairness="eva"
    )
    log.apply(submit(AMY, options=options), submit(BOB, options=options), grant(AMY, ANA), at_ms=5_000)
    log.apply(PauseQueue("image", 9_000, "429"), PauseQueue("mail", 0, ""), at_ms=5_000)
    ledger = log.ledger
    assert limits.words(ledger, spec(BOB, options=options), 5_250) == [
        "the queue of 'image' is paused for 3750 ms more: 429",
        "1 tasks run under concurrency key 'door', 1 may",
        "rate 'api' (1 in 1000 ms) lets the next one go in 750 ms",
    ]
    assert limits.words(ledger, spec(BOB, capability="mail"), 5_250) == ["the queue of 'mail' is paused"]
    assert limits.words(ledger, spec(BOB, options=rated((2, 1_000))), 9_000) == []


def test_where_tasks_with_a_word_go_is_remembered_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """E.16: two words are remembered here; the one that was used longest ago is forgotten first."""
    monkeypatch.setattr(limits, "STICKY_MAX", 2)
    log = levelled(ANA, BEN)
    for name, word, node in ((AMY, "x", ANA), (BOB, "y", ANA), (CID, "x", BEN), (DAN, "z", BEN)):
        log.apply(submit(name, options=Options(sticky=word)), GrantLease(name, NodeId(node)))
    assert log.ledger.sticky == {"x": BEN, "z": BEN}
