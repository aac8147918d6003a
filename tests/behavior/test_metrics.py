"""Metrics of behaviour: what is averaged over what, on which prompts, and that a declaration is all there is to one."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from offon.behavior.metrics import page, registry
from offon.behavior.metrics.metric import Metric, Sides, certain_change
from offon.behavior.metrics.response_average import response_average
from offon.behavior.stage.task_entry import task_handoff
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import Est, paired_change
from offon.errors import DataError
from offon.reporting.summary import task_rows
from offon.types import Group, Item, Source, Trajectory

DOCS = Path(__file__).parents[2] / "docs" / "behavior.md"


def response(tokens, *tags):
    return Trajectory.of([7] * tokens, [1, 2], Source.LEARNER, tags=frozenset(tags))


def groups(rows, name="p"):
    """[P] groups of responses with these numbers of tokens; 4 or more are cut at 4."""
    return [
        Group(
            item=Item(id=f"{name}{i}", prompt="?"),
            views={"prompt": (1, 2)},
            members=tuple(response(min(n, 4), *["truncated"] * (n >= 4)) for n in row),
        )
        for i, row in enumerate(rows)
    ]


def sides(before, after):
    counts = Counts.of([1] * len(before), 2)
    return Sides(before=counts, after=counts, k=2, groups=(before, after))


def estimate(value, part):
    return value[part]["estimate"]


def probe(n_prompts=6, n=16, seed=0):
    """Outcomes before and after, prompts of two families, and responses of 1 to 5 tokens."""
    rng = np.random.default_rng(seed)
    before, after = ((rng.random((n_prompts, n)) < rate).astype(float).tolist() for rate in (0.3, 0.6))
    prompts = [{"id": f"p{i}", "family": "ab"[i % 2], "prompt": "?"} for i in range(n_prompts)]
    return before, after, prompts, tuple(groups(rng.integers(1, 6, (n_prompts, n)).tolist()) for _ in range(2))


def test_a_mean_is_over_responses_and_then_over_prompts():
    """Before: (2 + 4) / 2 and 1, mean 2. After: 3 and (1 + 3) / 2, mean 2.5. By prompt 0 and +1, mean +.5."""
    value = response_average(len)(sides(groups([[2, 4], [1]]), groups([[3], [1, 3]])))
    assert (value["before"].estimate, value["after"].estimate, value["change"].estimate) == (2.0, 2.5, 0.5)
    assert value["change"] == paired_change([3, 1], [3, 2])


def test_what_does_not_tell_is_left_out_and_so_is_a_prompt_that_tells_on_one_side_only():
    """Only even lengths tell. Of prompt 0 one response a side, of prompt 1 none before; nothing at all for odd ones."""

    def even(response):
        return None if len(response) == 1 else float("nan") if len(response) == 3 else float(len(response))

    value = response_average(even)(sides(groups([[1, 2], [3, 1]]), groups([[4, 3], [2, 2]])))
    assert {part: est.estimate for part, est in value.items()} == {"before": 2.0, "after": 4.0, "change": 2.0}
    assert response_average(even)(sides(groups([[1], [3]]), groups([[2], [2]]))) is None


def test_the_same_responses_change_by_exactly_nothing():
    same = groups([[1, 2], [4, 4], [3, 1]])
    assert response_average(len)(sides(same, same))["change"] == Est(0.0, 0.0, 0.0)


def test_truncated_and_response_tokens_of_a_probe():
    """4 of 8 responses cut before, 1 of 8 after; 23 tokens before, 14 after."""
    prompts = [{"id": f"p{i}", "prompt": "?"} for i in range(4)]
    outcomes = [[1.0, 0.0]] * 4
    lengths = [[4, 4], [5, 2], [2, 2], [4, 1]], [[1, 1], [2, 2], [1, 2], [1, 9]]
    entry = task_handoff(outcomes, outcomes, prompts, k=2, groups=tuple(map(groups, lengths)))
    assert [estimate(entry["truncated"], part) for part in ("before", "after", "change")] == [0.5, 0.125, -0.375]
    tokens = [estimate(entry["response_tokens"], part) for part in ("before", "after", "change")]
    assert tokens == pytest.approx([23 / 8, 14 / 8, -9 / 8])
    assert entry["truncated"]["before"]["low"] >= 0 and entry["truncated"]["change"]["low"] < -0.375


def test_a_family_is_measured_as_if_it_were_alone():
    before, after, prompts, probed = probe()
    entry = task_handoff(before, after, prompts, k=4, groups=probed)
    for place, name in enumerate("ab"):
        alone = task_handoff(
            before[place::2], after[place::2], prompts[place::2], k=4, groups=tuple(side[place::2] for side in probed)
        )
        for metric in registry.METRICS:
            assert entry["families"][name][metric.key] == alone[metric.key] is not None, metric.key


def test_what_needs_responses_is_null_without_them():
    before, after, prompts, _ = probe()
    entry = task_handoff(before, after, prompts, k=4)
    assert entry["truncated"] is None and entry["response_tokens"] is None and entry["retention"]


def test_responses_of_other_prompts_are_refused():
    before, after, prompts, (first, second) = probe()
    with pytest.raises(DataError, match="'groups after': 5"):
        task_handoff(before, after, prompts, k=4, groups=(first, second[:5]))
    with pytest.raises(DataError, match="2 groups after are of other prompts") as error:
        task_handoff(before, after, prompts, k=4, groups=(first, [second[1], second[0], *second[2:]]))
    assert error.value.where == "prompt p0, group of p1"


def test_what_is_no_number_is_null():
    def told(value):
        metric = Metric(key="x", unit="ratio", compute=lambda _: value, title="X", meaning="x")
        return metric.measure(sides(groups([[1]]), groups([[1]])))

    assert told(Est(math.nan, 0.0, 1.0)) is None and told(None) is None
    assert told({"a": {"b": Est(np.float64(1.0), -math.inf, math.inf)}}) == {
        "a": {"b": {"estimate": 1.0, "low": None, "high": None}}
    }


@pytest.mark.parametrize(
    ("change", "absolute", "relative"),
    [
        ((0.02, 0.01, 0.03), True, False),  # of .5: 4%
        ((-0.2, -0.3, -0.1), True, True),
        ((0.2, -0.1, 0.5), False, False),
        ((0.2, 0.0, 0.5), False, False),
        ((0.004, 0.003, 0.005), False, False),
        ((0.2, None, 0.5), False, False),
        (None, False, False),
    ],
)
def test_only_a_certain_change_of_some_size_is_worth_a_line(change, absolute, relative):
    change = change and dict(zip(("estimate", "low", "high"), change, strict=True))
    parts = {"before": {"estimate": 0.5, "low": 0.4, "high": 0.6}, "change": change}
    assert certain_change(0.01)(parts) == absolute
    assert certain_change(0.1, relative=True)(parts) == relative
    assert not certain_change(0.01)({"": {"estimate": 0.5, "low": 0.4, "high": 0.6}})


def test_a_key_is_its_files_name_and_no_other_key_of_an_entry_or_a_row(monkeypatch):
    declared = registry.METRICS
    assert tuple(metric.key for metric in declared) == registry.NAMES
    monkeypatch.setattr(registry, "METRICS", ())
    before, after, prompts, probed = probe()
    entry = task_handoff(before, after, prompts, k=4, groups=probed)
    taken = set(entry) | set(entry["families"]["a"]).union(*task_rows("task", entry))
    assert "success" in taken and taken.isdisjoint(metric.key for metric in declared)


def test_a_declaration_has_the_words_for_every_place():
    for metric in registry.METRICS:
        assert metric.title[0].isupper() and metric.meaning and not metric.meaning.endswith("."), metric.key
        told = " ".join(str(value) for value in dataclasses.astuple(metric))
        assert "|" not in told and "\n" not in told, f"{metric.key} breaks the table of the documentation"


def test_the_documentation_has_the_declarations():
    text = DOCS.read_text(encoding="utf-8")
    assert text == page.rewritten(text), "run: python -m offon.behavior.metrics.page docs/behavior.md"
