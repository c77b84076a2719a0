"""A node's score, and by what it was lost (S4-15, S4-28, S4-31)."""

import pytest

from mesh.dispatch.health import score
from mesh.gossip.members import Health
from mesh.ledger.settings import Settings

HEALTHY, DEGRADED, FAILED, RECOVERING = Health


def test_a_node_of_which_nothing_bad_is_known_has_all_of_it() -> None:
    assert score(HEALTHY, 0, 0, 899, 949) == (1_000, ())


def test_a_node_that_has_failed_has_none() -> None:
    """Whatever else there is to say of it."""
    assert score(FAILED, 3, 500, 990, 990) == (0, ("it has failed",))


@pytest.mark.parametrize(
    ("given", "expected", "cause"),
    [
        ((DEGRADED, 1, 0, 0, 0), 750, "1 heartbeats missed (-0.25)"),
        ((DEGRADED, 2, 0, 0, 0), 500, "2 heartbeats missed (-0.50)"),
        ((RECOVERING, 0, 0, 0, 0), 800, "it is recovering (-0.20)"),
        ((HEALTHY, 0, 250, 0, 0), 900, "25 % of its latest attempts failed (-0.10)"),
        ((HEALTHY, 0, 1_000, 0, 0), 600, "100 % of its latest attempts failed (-0.40)"),
        ((HEALTHY, 0, 0, 900, 0), 900, "its processors are 90 % busy (-0.10)"),
        ((HEALTHY, 0, 0, 0, 950), 850, "its memory is 95 % full (-0.15)"),
    ],
)
def test_each_cause_has_its_price_and_is_named(
    given: tuple[Health, int, int, int, int], expected: int, cause: str
) -> None:
    assert score(*given) == (expected, (cause,))


def test_causes_add_up_and_no_score_is_below_nothing() -> None:
    """In the order they weigh: heartbeats first."""
    assert score(RECOVERING, 1, 500, 950, 990) == (
        100,
        (
            "1 heartbeats missed (-0.25)",
            "it is recovering (-0.20)",
            "50 % of its latest attempts failed (-0.20)",
            "its processors are 95 % busy (-0.10)",
            "its memory is 99 % full (-0.15)",
        ),
    )
    assert score(DEGRADED, 5, 0, 0, 0)[0] == 0


def test_a_failure_too_rare_to_count_is_not_named() -> None:
    assert score(HEALTHY, 0, 2, 0, 0) == (1_000, ())


def test_neither_load_nor_failed_attempts_bring_a_node_below_the_ordinary_threshold() -> None:
    """Those are other filters' business: slots, and breakers."""
    least = Settings().health_permille_min
    assert (least, score(HEALTHY, 0, 0, 1_000, 1_000)[0] >= least, score(HEALTHY, 0, 1_000, 0, 0)[0] >= least) == (
        500,
        True,
        True,
    )
