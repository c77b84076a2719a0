"""The figures about a death: quantiles of a few rounds, and whether a bar is met."""

from tests.chaos.failover import Measure


def test_a_quantile_is_a_value_that_was_measured() -> None:
    measure = Measure("ana dies", 150, 600, values=[float(ms) for ms in range(100, 0, -1)])
    assert (measure.quantile(0.5), measure.quantile(0.99), measure.quantile(1.0)) == (50.0, 99.0, 100.0)


def test_one_slow_round_of_a_hundred_is_allowed_unless_it_is_to_hold_always() -> None:
    values = [100.0] * 99 + [900.0]
    assert Measure("ana dies", 150, 600, values=values).met
    assert not Measure("ana dies", 150, 600, always=True, values=values).met
    assert not Measure("ana dies", 99, 600, values=values).met


def test_a_row_says_what_was_wanted_and_whether_it_was_met() -> None:
    row = Measure("ana dies", 150, 600, values=[80.0, 90.0, 700.0]).row()
    assert row == "| ana dies | 3 | 90 | 700 | 700 | 700 | median 150, p99 600 | **no** |"
