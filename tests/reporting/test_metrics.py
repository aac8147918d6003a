"""How a metric reads in a cell and in a line, whatever its unit and whatever was measured of it."""

import pytest

from offon.behavior.metrics import registry
from offon.behavior.metrics.metric import Metric, certain_change
from offon.reporting import metrics
from tests.reporting.shapes import est

MINUS = "\u2212"


def declared(unit, line=certain_change(0.01), **fields):
    return Metric(key="x", unit=unit, compute=lambda _: None, title="Words", meaning="m", line=line, **fields)


def change(before, after, change):
    return {"before": est(before, 0.01), "after": est(after, 0.01), "change": change}


@pytest.mark.parametrize(
    ("unit", "value", "text", "interval"),
    [
        ("share", est(0.862, 0.071), "86.2%", "79.1 to 93.3"),
        ("tokens", est(6.42, 0.5), "6.42", "5.92 to 6.92"),
        ("tokens", est(1500.0, 20.0), "1,500", "1,480 to 1,520"),
        ("share", change(0.12, 0.031, est(-0.089, 0.013)), "12.0% → 3.1%",
         f"{MINUS}8.9 points ({MINUS}10.2 to {MINUS}7.6)"),
        ("tokens", change(41.5, 56, est(14.5, 4)), "41.5 → 56.0", "+14.5 (+10.5 to +18.5)"),
        ("tokens", change(6, 6.001, est(0.001, 0.008)), "6.00 → 6.00", f"0.00 ({MINUS}0.01 to +0.01)"),
        ("tokens", change(1500, 300, est(-1200, 100)), "1,500 → 300",
         f"{MINUS}1,200 ({MINUS}1,300 to {MINUS}1,100)"),
        ("seconds", change(2, 1, est(-1, 0.5)), "2.0 s → 1.0 s", f"{MINUS}1.0 s ({MINUS}1.5 s to {MINUS}0.5 s)"),
        ("share", change(0.5, 0.5, est(0, 0)), "50.0% → 50.0%", "unchanged"),
        ("share", {"before": est(0.5, 0.1), "after": est(0.25, 0.1)}, "50.0% → 25.0%", "40.0 to 60.0 → 15.0 to 35.0"),
        ("share", {"after": est(0.25, 0.1)}, "– → 25.0%", "– → 15.0 to 35.0"),
        ("nats", {"estimate": 0.5, "low": 0.1, "high": None}, "0.5", "0.1 to no bound"),
        ("nats", change(1, 2, {"estimate": 1.0, "low": 0.5, "high": None}), "1 → 2", "+1 (+0.5 to no bound)"),
    ],
)  # fmt: skip
def test_a_cell_has_the_number_over_its_interval(unit, value, text, interval):
    assert metrics.cell(declared(unit), value) == (text, interval)


@pytest.mark.parametrize("value", [None, {}, {"before": None, "after": None}])
def test_what_was_not_measured_has_no_cell(value):
    assert metrics.cell(declared("share"), value) is None


@pytest.mark.parametrize(
    ("metric", "value", "lines"),
    [
        (declared("share"), change(0.12, 0.031, est(-0.089, 0.013)),
         [f"words 12.0% → 3.1%, {MINUS}8.9 points ({MINUS}10.2 to {MINUS}7.6)"]),
        (declared("nats"), change(1, 2, est(1, 0.5)), ["words 1 → 2 nats, +1 (+0.5 to +1.5)"]),
        (declared("share"), change(0.12, 0.13, est(0.01, 0.02)), []),
        (declared("share"), None, []),
        (declared("share", line=lambda parts: True), est(0.5, 0.1), ["words 50.0% (40.0 to 60.0)"]),
        (declared("share", line=lambda parts: True), None, []),
    ],
)  # fmt: skip
def test_a_line_is_only_of_what_deserves_one(metric, value, lines, monkeypatch):
    monkeypatch.setattr(registry, "METRICS", (metric,))
    assert metrics.lines({"x": value}) == lines


def test_a_column_is_of_a_metric_that_some_row_has(monkeypatch):
    monkeypatch.setattr(registry, "METRICS", (declared("nats"), Metric(**vars(declared("share")) | {"key": "y"})))
    (column,) = metrics.columns([{"x": est(1, 0.5), "y": None}, {"x": None}])
    assert (column.head, column.cells) == ("Words, nats", [("1", "0.5 to 1.5"), None])
