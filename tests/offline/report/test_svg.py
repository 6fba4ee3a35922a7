from __future__ import annotations

from xml.etree import ElementTree

import pytest

from offline.report.blocks import Whisker, Whiskers
from offline.report.svg import HEIGHT, WIDTH, Axis, Point, lines, scatter, short
from offline.report.whiskers import axis_of, axis_svg, row_svg


def test_ticks_are_round_and_inside() -> None:
    assert Axis("x", 0.031, 0.128).ticks() == [0.04, 0.06, 0.08, 0.1, 0.12]
    assert Axis("x", -0.2, 0.4).ticks() == pytest.approx([-0.2, 0, 0.2, 0.4])
    assert Axis("x", 0.8, 30, log=True).ticks() == [1, 2, 5, 10, 20]
    assert Axis("x", 0.01, 5_000, log=True).ticks() == [0.01, 0.1, 1, 10, 100, 1_000]


def test_an_axis_holds_its_values_even_when_they_are_one() -> None:
    for values in ([0.1, 0.2], [0.1], [0.0], []):
        axis = Axis.around("x", values)
        assert axis.low < axis.high
        assert all(0 < axis.share(value) < 1 for value in values)
    axis = Axis.around("x", [0.5, 50.0], log=True)
    assert axis.share(5.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("value", "text"), [(0.123456, "0.123"), (88_684, "88.7k"), (1.2e6, "1.2M"), (3e9, "3G"), (0, "0")]
)
def test_short_figures(value: float, text: str) -> None:
    assert short(value) == text


def test_points_stand_where_their_values_are_and_labels_do_not_meet() -> None:
    points = [Point(1, 0.1, "a <b>", "llm"), Point(10, 0.1001, "c & d", "plain"), Point(10.1, 0.1, "e", "control")]
    x, y = Axis.around("ms", [p.x for p in points], log=True), Axis.around("q", [p.y for p in points])
    root = ElementTree.fromstring(scatter(points, x, y))
    dots = {e.get("class"): (float(e.get("cx", 0)), float(e.get("cy", 0))) for e in root.iter("circle")}
    assert dots["dot llm"][0] < dots["dot plain"][0]
    assert dots["dot llm"][1] > dots["dot plain"][1], "up is better"
    assert all(0 < x < WIDTH and 0 < y < HEIGHT + 90 for x, y in dots.values())
    labels = [e for e in root.iter("text") if e.get("class") == "label"]
    assert {e.text for e in labels} == {"a <b>", "c & d", "e"}
    boxes = [(float(e.get("x", 0)), float(e.get("y", 0)), 5 * len(str(e.text))) for e in labels]
    for n, (left, base, width) in enumerate(boxes):
        assert all(
            abs(base - other) >= 10 or left + width <= at or at + wide <= left for at, other, wide in boxes[n + 1 :]
        )


def test_a_label_without_room_is_left_out_and_its_name_is_kept() -> None:
    points = [Point(5, 0.1, f"a-rather-long-name-{n}", "llm") for n in range(40)]
    root = ElementTree.fromstring(scatter(points, Axis("x", 1, 10, log=True), Axis("y", 0, 0.2)))
    labels = [e.text for e in root.iter("text") if e.get("class") == "label"]
    assert 1 <= len(labels) < 40
    assert labels[0] == points[0].label, "the first ones first"
    assert len([e for e in root.iter("title") if e.text and e.text.startswith("a-rather")]) == 40


def test_curves_are_drawn_point_by_point() -> None:
    series = [("arm <x>", "c0", [(0.0, 0.1), (1.0, 0.2)])]
    root = ElementTree.fromstring(lines(series, Axis("t", 0, 1), Axis("q", 0, 1)))
    (curve,) = root.iter("polyline")
    places = [[float(v) for v in place.split(",")] for place in str(curve.get("points")).split()]
    assert places[0][0] < places[1][0]
    assert places[0][1] > places[1][1]


def test_whiskers_are_places_in_percent() -> None:
    row = Whisker("a", "", "llm", 0.5, 0.25, 0.75, ".5")
    block = Whiskers((row,), "x", line=0.0)
    axis = axis_of(block)
    root = ElementTree.fromstring(row_svg(row, axis, line=0.0))
    whisker = next(e for e in root.iter("line") if "whisker" in str(e.get("class")))
    low, high = (float(str(whisker.get(name)).rstrip("%")) for name in ("x1", "x2"))
    (dot,) = root.iter("circle")
    assert low < float(str(dot.get("cx")).rstrip("%")) < high
    assert 0 < float(str(next(e for e in root.iter("line") if e.get("class") == "base").get("x1")).rstrip("%")) < low
    assert "+" in axis_svg(Axis("x", -0.1, 0.1), percent=True)
