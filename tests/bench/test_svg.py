"""Charts: every figure has its place, and what is written in them cannot break them."""

from xml.etree import ElementTree

import pytest

from bench.svg import BAR_WIDTH, LEFT, PLOT_WIDTH, Column, Series, bars, lines, readable

SVG = "{http://www.w3.org/2000/svg}"


def _texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def _widths(svg: str) -> list[tuple[str, float]]:
    rects = ElementTree.fromstring(svg).iter(f"{SVG}rect")
    return [(one.get("class", ""), float(one.get("width", ""))) for one in rects if one.get("class") != "paper"]


def test_the_longest_bar_fills_its_column_and_the_others_are_in_proportion() -> None:
    svg = bars("A chart", ["mesh", "ana"], [Column("tasks", "longer is better", [1_000.0, 250.0])], own="mesh")
    assert _widths(svg) == [("own", BAR_WIDTH), ("bar", BAR_WIDTH / 4)]
    assert _texts(svg) == ["A chart", "mesh", "ana", "tasks", "longer is better", "1,000", "250"]


def test_a_row_without_a_figure_says_so() -> None:
    svg = bars("A chart", ["mesh", "ana"], [Column("tasks", "", [None, 2.0])], own="mesh")
    assert _widths(svg) == [("bar", BAR_WIDTH)]
    assert "no figure" in _texts(svg)


def test_nothing_but_zeros_and_nothing_at_all_are_charts_too() -> None:
    assert _widths(bars("A chart", ["ana"], [Column("lost", "", [0.0])], own="mesh")) == [("bar", 1.0)]
    assert _widths(bars("A chart", [], [Column("lost", "", [])], own="mesh")) == []


def test_names_are_text_and_not_markup() -> None:
    svg = bars("<Celery> & Redis", ["a<b"], [Column("x", "", [1.0])], own="mesh")
    assert _texts(svg)[:2] == ["<Celery> & Redis", "a<b"]


def test_a_chart_knows_the_dark() -> None:
    assert "prefers-color-scheme: dark" in bars("A chart", [], [], own="mesh")


def _dots(svg: str) -> list[tuple[float, float]]:
    circles = ElementTree.fromstring(svg).iter(f"{SVG}circle")
    return [(float(one.get("cx", "")), float(one.get("cy", ""))) for one in circles]


def test_points_of_a_line_lie_on_logarithmic_axes() -> None:
    """Ten times as many is one step to the right wherever it begins, and ten times as much one step up."""
    svg = lines("Depth", "queued", "us", [Series("cpu", [(10, 1), (100, 10), (1_000, 100)])])
    assert [x for x, _ in _dots(svg)] == pytest.approx([LEFT, LEFT + PLOT_WIDTH / 2, LEFT + PLOT_WIDTH])
    heights = [y for _, y in _dots(svg)]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert heights[0] > heights[2]


def test_what_has_no_logarithm_is_left_out() -> None:
    svg = lines("Depth", "queued", "us", [Series("cpu", [(0, 1), (10, -1), (10, 5)]), Series("none", [])])
    assert len(_dots(svg)) == 1
    assert {"cpu", "none"} <= set(_texts(svg))


def test_lines_without_any_point_say_so() -> None:
    assert "no figures" in _texts(lines("Depth", "queued", "us", [Series("cpu", [])]))


def test_six_decades_have_no_more_ticks_than_can_be_read() -> None:
    texts = _texts(lines("Depth", "queued", "us", [Series("cpu", [(1, 1), (1e12, 1)])]))
    assert [text for text in texts if text[0].isdigit()] == [
        *("1", "100", "10,000", "1,000,000", "100,000,000", "10,000,000,000", "1,000,000,000,000"),
        *("1", "10"),
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (13_800.4, "13,800"),
        (999.6, "1,000"),
        (45.67, "45.7"),
        (2.0, "2"),
        (0.12345, "0.123"),
        (0.0, "0"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_are_written_with_three_digits_that_count(value: float, words: str) -> None:
    assert readable(value) == words
