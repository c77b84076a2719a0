"""Rounds to medians, medians to a page and a picture."""

from bench.compare.chart import chart
from bench.compare.records import (
    VERSION,
    Comparison,
    Durability,
    Label,
    Loss,
    Mode,
    Row,
    Settings,
    Turn,
    Victim,
)
from bench.compare.summary import middle
from bench.compare.table import table

SETTINGS = Settings(3, 10_000, 2_000, 300, 200, 0.05, 300.0, 60.0)
MESH = Label("mesh", "agent-mesh", Mode.ONLY, Durability(3, "every commit", "in the log"), "three nodes", "leader")
ANA = Label("ana", "Ana|Queue", Mode.FAST, Durability(1, "never", "in memory"), "one server", "broker")
BEN = Label("ben", "BenQueue", Mode.DURABLE, Durability(1, "every write", "on disk"), "two servers", "broker")


def _found() -> Comparison:
    turns = [Turn(12_000.0, 0.12, 2.5, 8.0)]
    losses = [
        Loss(Victim.WORKER, accepted=200, rerun=3, back_s=0.07, done_s=1.5),
        Loss(Victim.KEEPER, accepted=200, lost=3, held=2, doubled=1, silent=6, back_s=None, done_s=None),
    ]
    return Comparison(
        VERSION,
        "2 processors",
        "3.11.7",
        SETTINGS,
        [3.8, 4.0, 3.9],
        [
            Row(MESH, turns, losses, {"pyzmq": "27.0"}, turns[0]),
            Row(ANA, [Turn(problem="it did not listen")], [Loss(Victim.KEEPER, problem="it did not listen")], {}),
            Row(BEN, [], [], {}),
        ],
        {"ray": "not installed: ray"},
    )


def test_the_median_of_three_rounds_is_taken_figure_by_figure() -> None:
    turns = [Turn(100.0, 0.3, 2.0, 9.0), Turn(300.0, 0.1, 3.0, 8.0), Turn(200.0, 0.2, 1.0, 70.0)]
    assert middle(turns) == Turn(200.0, 0.2, 2.0, 9.0)


def test_a_round_that_failed_does_not_count() -> None:
    assert middle([Turn(problem="it did not listen"), Turn(100.0, 0.3, 2.0, 9.0)]) == Turn(100.0, 0.3, 2.0, 9.0)


def test_rounds_that_all_failed_have_no_median() -> None:
    assert middle([Turn(problem="it did not listen")]) is None
    assert middle([]) is None


def test_the_page_has_a_row_a_system_with_what_its_submits_rest_on() -> None:
    lines = table(_found()).splitlines()
    assert "| agent-mesh | 12,000 | 0.12 | 2.5 | 8 | 3 | every commit | in the log |" in lines
    assert "| BenQueue, durable | no figures: not run |  |  |  | 1 | every write | on disk |" in lines
    assert "- agent-mesh: three nodes (pyzmq 27.0)" in lines
    assert "- ray: not installed: ray" in lines
    assert "yardstick 3.8, 4, 3.9 us." in lines[0]


def test_the_page_says_what_was_killed_and_what_that_cost() -> None:
    lines = table(_found()).splitlines()
    assert "| agent-mesh | worker | 200 | 0 | 0 | 0 | 3 | 0 | 0.07 | 1.5 |" in lines
    assert "| agent-mesh | leader | 200 | 3 | 2 | 1 | 0 | 6 | not in time | not in time |" in lines


def test_a_name_cannot_break_the_table() -> None:
    row = "| Ana/Queue, fast | broker | no figures: it did not listen |  |  |  |  |  |  |  |"
    assert row in table(_found()).splitlines()


def test_without_kills_and_with_everybody_the_page_is_shorter() -> None:
    found = _found()
    found.skipped = {}
    found.yardstick_us = []
    for row in found.rows:
        row.losses = []
    page = table(found)
    assert "SIGKILL" not in page
    assert "Left out" not in page
    assert "yardstick not measured us." in page


def test_the_picture_shows_everybody() -> None:
    picture = chart(_found())
    for words in ("agent-mesh", "Ana|Queue, fast", "BenQueue, durable", "12,000", "0.12", "2.5", "no figure"):
        assert f">{words}</text>" in picture
