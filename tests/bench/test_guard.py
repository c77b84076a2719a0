"""When a task has become dearer, and when nobody can say."""

from pathlib import Path

import click
import pytest

from bench.guard import Price, Verdict, judge, read, sentence, write


def _price(ratio: float, *, version: int = 1, tasks: int = 10_000) -> Price:
    return Price(version, ratio, [ratio], tasks, "2026-11-28", "3.11.7")


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (11.6, Verdict.DEARER),
        (11.5, Verdict.SAME),
        (10.0, Verdict.SAME),
        (8.5, Verdict.SAME),
        (8.4, Verdict.CHEAPER),
    ],
)
def test_a_tolerance_of_15_percent_reaches_both_ways(ratio: float, verdict: Verdict) -> None:
    assert judge(_price(ratio), _price(10.0), 15.0) is verdict


def test_without_anything_written_down_there_is_no_verdict() -> None:
    assert judge(_price(10.0), None, 15.0) is Verdict.UNKNOWN


def test_another_yardstick_or_other_work_compares_with_nothing() -> None:
    assert judge(_price(10.0), _price(10.0, version=2), 15.0) is Verdict.UNKNOWN
    assert judge(_price(10.0), _price(10.0, tasks=300), 15.0) is Verdict.UNKNOWN


def test_only_a_comparison_that_was_made_can_pass() -> None:
    assert [verdict for verdict in Verdict if verdict.passes] == [Verdict.SAME, Verdict.CHEAPER]


def test_what_is_written_down_is_read_again(tmp_path: Path) -> None:
    last = tmp_path / "last.json"
    assert read(last) is None
    write(last, _price(9.31))
    assert read(last) == _price(9.31)
    assert [path.name for path in tmp_path.iterdir()] == ["last.json"]


def test_a_file_that_is_no_price_is_said_in_a_sentence(tmp_path: Path) -> None:
    last = tmp_path / "last.json"
    last.write_text("{}")
    with pytest.raises(click.ClickException, match=r"last\.json cannot be read: "):
        read(last)


def test_the_sentence_has_both_prices() -> None:
    assert sentence(_price(11.6), _price(10.0), Verdict.DEARER) == (
        "a task costs 11.6 x hot path (11.6); 10 on 2026-11-28: dearer than is tolerated"
    )
    assert sentence(_price(11.6), None, Verdict.UNKNOWN) == (
        "a task costs 11.6 x hot path (11.6): nothing to compare with: record it, on a quiet machine"
    )
