"""Every part has its picture, and bounds that keep it affordable."""

from pathlib import Path

import click
import msgspec
import pytest

from bench.curves.__main__ import DEPTHS, _names, write
from bench.curves.plots import PLOTS
from bench.curves.real import portion
from bench.curves.records import Curves, DepthPoint, FlightPoint, GossipPoint, NodesPoint, PayloadPoint
from mesh.config import DispatchConfig

FOUND = Curves(
    1,
    "2 processors",
    "3.11.7",
    13.2,
    depth=[DepthPoint(1_000, 40.0, 120.0, 9_000.0, 2.5, 50.0), DepthPoint(10_000, 41.0, 121.0, 8_900.0, 2.5, 60.0)],
    payload=[PayloadPoint(0.1, 120.0, 9_000.0, 0.9), PayloadPoint(256.0, 3_000.0, 200.0, 50.0)],
    flight=[FlightPoint(1, 900.0, 400.0), FlightPoint(20_000, 110.0, 11_000.0)],
    nodes=[NodesPoint(3, 3, 120.0, 9_000.0, 11.0, 157.0), NodesPoint(9, 5, 190.0, 4_000.0, 14.0, None)],
    gossip=[GossipPoint(100, 1_522, 150_572, 0.03, 7.0, 3_000, 150, 32.0)],
)
DOTS = {"gossip": 3, "payload": 2, "flight": 2, "nodes": 5, "depth": 4}
"""Every point once a line, but the verdict that did not come."""


@pytest.mark.parametrize("part", PLOTS)
def test_each_part_has_a_picture_of_its_points(part: str) -> None:
    assert PLOTS[part](FOUND).count("<circle") == DOTS[part]


@pytest.mark.parametrize("part", PLOTS)
def test_a_part_that_was_not_run_has_a_picture_that_says_so(part: str) -> None:
    assert "no figures" in PLOTS[part](Curves(1, "2 processors", "3.11.7", 13.2))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write("depth", FOUND, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["curve-depth.json", "curve-depth.svg"]
    assert msgspec.json.decode((tmp_path / "out" / "curve-depth.json").read_bytes(), type=Curves) == FOUND


def test_the_deepest_queue_leaves_room_for_what_is_measured() -> None:
    assert DEPTHS[-1] == 970_000 < DispatchConfig().queued_max


@pytest.mark.parametrize(
    ("kib", "tasks", "in_flight"), [(0.1, 5_000, 2_000), (16.0, 4_096, 2_000), (64.0, 1_024, 512), (256.0, 256, 128)]
)
def test_large_payloads_are_fewer(kib: float, tasks: int, in_flight: int) -> None:
    assert portion(kib, 5_000) == (tasks, in_flight)


def test_no_payload_is_sent_less_than_a_hundred_times() -> None:
    assert portion(1_000.0, 5_000) == (100, 32)


def test_parts_are_chosen_by_name() -> None:
    assert _names("") == ["gossip", "payload", "flight", "nodes", "depth"]
    assert _names("depth, gossip") == ["depth", "gossip"]
    with pytest.raises(click.BadParameter, match="width is none of gossip, payload"):
        _names("width")
