"""The verdict on histories made by hand: a good one passes, and each way of being bad is named."""

from collections.abc import Callable

import pytest

from tests.chaos.campaign import Outcome, add_up
from tests.chaos.configurations import CONFIGURATIONS
from tests.chaos.expect import COMPLETED, DEAD
from tests.chaos.history import Expected, Glance, History, Run
from tests.chaos.verdict import judge, where_lost

QUICK = Expected(COMPLETED, (5, 0))
TRACED = Expected(COMPLETED, (10, 0), traced=True)
DOOMED = Expected(DEAD)


def good_history() -> History:
    """Ana submits three tasks: a quick one, a traced one that is run twice, and one that must die."""
    return History(
        acked={"quick": QUICK, "traced": TRACED, "doomed": DOOMED},
        results={"quick": [5, 0], "traced": [10, 0, 41]},
        completions={"quick": [40], "traced": [41]},
        deaths={"doomed": 1},
        fenced=1,
        states={"quick": "completed", "traced": "completed", "doomed": "dead"},
        runs=[
            Run("traced", 39, 1, "n1", "begin"),
            Run("traced", 41, 2, "n2", "begin"),
            Run("traced", 41, 2, "n2", "end"),
            Run("traced", 39, 1, "n1", "end"),
        ],
        glances=[Glance("n1", 50, "aa"), Glance("n2", 50, "aa"), Glance("n3", 49, "bb")],
        tables_differ={"n1": 0, "n2": 0},
        strikes={"kill": 2, "pause": 1, "halves": 3},
    )


def test_a_good_history_has_no_problems() -> None:
    verdict = judge("ana", good_history())
    assert verdict.problems == []
    assert (verdict.acked, verdict.lost, verdict.twice, verdict.fenced) == (3, 0, 0, 1)
    assert verdict.kills_and_pauses == 3, "a partition is neither"


def lose_one(history: History) -> None:
    del history.states["quick"]


def complete_twice(history: History) -> None:
    history.completions["quick"].append(44)


def give_a_wrong_result(history: History) -> None:
    history.results["quick"] = [6, 0]


def give_another_attempts_result(history: History) -> None:
    history.results["traced"] = [10, 0, 39]


def never_end(history: History) -> None:
    history.states["quick"] = "running"


def die_instead(history: History) -> None:
    history.states["quick"] = "dead"


def complete_what_must_die(history: History) -> None:
    history.completions["doomed"] = [45]


def die_twice(history: History) -> None:
    history.deaths["doomed"] = 2


def complete_without_a_word(history: History) -> None:
    del history.completions["quick"]


def start_twice(history: History) -> None:
    history.runs.append(Run("traced", 41, 2, "n3", "begin"))


def complete_what_never_ran(history: History) -> None:
    history.runs.remove(Run("traced", 41, 2, "n2", "end"))


def keep_what_was_refused(history: History) -> None:
    history.refused["ghost"] = "certainly not in the log"
    history.states["ghost"] = "completed"


def invent_a_task(history: History) -> None:
    history.states["nobody's"] = "pending"


def disagree(history: History) -> None:
    history.glances.append(Glance("n3", 50, "cc"))


def notice_a_difference(history: History) -> None:
    history.tables_differ["n2"] = 1


def go_back(history: History) -> None:
    history.events_went_back = 1


def not_come_to_rest(history: History) -> None:
    history.unsettled = "no leader"


def leave_out(history: History) -> None:
    history.left_out["the list of tasks"] = ["quick"]


def fall_silent(history: History) -> None:
    history.silence_s = 61.0


def break_an_invariant(history: History) -> None:
    history.broken.append("n1 said: a broken invariant")


def lose_what_was_unknown(history: History) -> None:
    """Not bad at all, and neither is finding it."""
    history.unknown = {"maybe": QUICK, "found": QUICK}
    history.states["found"] = "completed"
    history.completions["found"] = [46]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lose_one, "1 acknowledged tasks are lost, a prefix (the first ones): quick"),
        (complete_twice, "1 tasks completed twice: quick"),
        (give_a_wrong_result, "1 tasks gave a wrong result: quick"),
        (give_another_attempts_result, "1 tasks gave a wrong result: traced"),
        (never_end, "1 tasks have ended otherwise, or not at all: quick"),
        (die_instead, "1 tasks have ended otherwise, or not at all: quick"),
        (complete_what_must_die, "1 tasks that must die were completed: doomed"),
        (die_twice, "1 tasks are not dead exactly once: doomed"),
        (complete_without_a_word, "1 tasks are completed without an event that says so: quick"),
        (start_twice, "1 tasks were started twice under one token: traced"),
        (complete_what_never_ran, "were completed under a token whose attempt never came to its end: traced"),
        (keep_what_was_refused, "1 tasks exist, though their submit was refused for certain: ghost"),
        (invent_a_task, "1 tasks exist that nobody submitted: nobody's"),
        (disagree, "the tables differ at index 50: aa at n1/n2, cc at n3"),
        (notice_a_difference, "nodes noticed tables that differ: {'n2': 1}"),
        (go_back, "the stream of events went back 1 times"),
        (not_come_to_rest, "did not come to rest after healing: no leader"),
        (leave_out, "1 tasks were left out of the list of tasks, and are on record: quick"),
        (fall_silent, "nothing was acknowledged for 61 s"),
        (break_an_invariant, "n1 said: a broken invariant"),
    ],
)
def test_each_way_to_be_bad_is_named(spoil: Callable[[History], None], says: str) -> None:
    history = good_history()
    spoil(history)
    problems = judge("ana", history).problems
    assert len(problems) == 1 and says in problems[0]


def test_a_submit_without_an_answer_may_be_there_or_not() -> None:
    history = good_history()
    lose_what_was_unknown(history)
    verdict = judge("ana", history)
    assert (verdict.problems, verdict.unknown, verdict.lost) == ([], 2, 0)


def test_one_that_had_no_answer_is_judged_like_the_others_if_it_is_there() -> None:
    history = good_history()
    lose_what_was_unknown(history)
    history.completions["found"].append(47)
    assert judge("ana", history).problems == ["1 tasks completed twice: found"]


@pytest.mark.parametrize(
    ("lost", "where"),
    [
        ("a", "a prefix (the first ones)"),
        ("ab", "a prefix (the first ones)"),
        ("de", "a postfix (the last ones)"),
        ("c", "in the middle (between acknowledgements 2 and 2 of 5)"),
        ("ae", "in the middle (between acknowledgements 0 and 4 of 5)"),
        ("abcde", "all of them"),
    ],
)
def test_where_the_lost_ones_lie_points_to_the_cause(lost: str, where: str) -> None:
    assert where_lost("abcde", lost) == where


def test_a_run_in_which_nothing_happened_is_no_proof() -> None:
    assert judge("ana", History()).problems == [
        "vacuous: nothing was acknowledged",
        "vacuous: no fault was struck",
    ]


def outcome_of(history: History) -> Outcome:
    return Outcome(CONFIGURATIONS["kills-3"], judge("kills-3", history))


def test_a_campaign_that_refused_no_stale_completion_is_vacuous() -> None:
    history = good_history()
    history.fenced = 0
    total = add_up([outcome_of(history)])
    assert total.problems == ["vacuous: 0 stale completions were refused, 1 are wanted"]


def test_a_campaign_adds_up_and_names_what_is_missing_to_the_bar() -> None:
    outcomes = [outcome_of(good_history()), outcome_of(good_history())]
    outcomes.append(Outcome(CONFIGURATIONS["halves-3"], None, why_not="no network namespaces here"))
    total = add_up(outcomes, acked_min=6, strikes_min=7, run_min=2)
    assert (total.configurations, total.skipped, total.acked, total.fenced) == (2, 1, 6, 2)
    assert total.problems == ["vacuous: 6 kills and pauses were struck, 7 are wanted"]


def test_there_are_enough_configurations_and_each_fault_is_in_one() -> None:
    assert len(CONFIGURATIONS) >= 24
    assert {configuration.nodes for configuration in CONFIGURATIONS.values()} == {3, 5}
