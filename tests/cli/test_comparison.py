"""What `offon compare` prints: numbers of the entry, in words that need no paper."""

import pytest

from offon import behavior
from offon.behavior.stage.role import stage_role
from offon.cli.comparison import comparison_page, points

ZERO = {"estimate": 0.0, "low": 0.0, "high": 0.0}
GAIN = {"estimate": 0.5, "low": 0.25, "high": 0.75}


@pytest.fixture
def entry():
    """Three prompts of 128 samples: one came into reach, one left it, one stayed."""
    outcomes = [[[0.0] * 128, [1.0] * 100 + [0.0] * 28, [1.0] * 64 + [0.0] * 64],
                [[1.0] * 90 + [0.0] * 38, [0.0] * 128, [1.0] * 64 + [0.0] * 64]]  # fmt: skip
    infos = [
        {"id": str(i), "family": "", "prompt": text} for i, text in enumerate(["one\nplus \x1b[2J", "two", "three"])
    ]
    found = behavior.task_handoff(*outcomes, infos, k=32)
    counts = [behavior.count(side) for side in outcomes]
    for row, tries in zip(found["prompts"], ([36.0, None], [1.2, 1.4], [2.0, 2.0]), strict=True):
        row["k_to_solve"] = {"before": tries, "after": [1.0, 2e9]}
    return found | {
        "before_model": "old", "after_model": "new", "task": "sums", "k": 32, "same_weights": False, "sentence": "so.",
        "role": stage_role(*counts, 32).as_dict(),
        "instruments": [{"name": "prompts", "applies": True, "why": "counts"},
                        {"name": "tree", "applies": False, "why": "ids differ"},
                        {"name": "where (D3)", "applies": False, "why": "ids differ"}],
        "cost": {"tokens_generated": 1234, "tokens_scored": 0, "evaluations": 0, "seconds": 3.0},
    }  # fmt: skip


def test_the_sentence_comes_first_then_prompts_by_their_text(entry):
    page = comparison_page(entry)
    assert page.splitlines()[:2] == ["old -> new on sums", "so."]
    gained, lost = (
        next(line for line in page.splitlines() if line.startswith(f"{way}  ")) for way in ("gained", "lost")
    )
    assert "0/128 -> 90/128" in gained and "36 or more -> 1 or more" in gained and r"one\nplus ?[2J" in gained
    assert "100/128 -> 0/128" in lost and "1.2 to 1.4" in lost and lost.endswith("two")
    assert "1,234 tokens generated" in page


def test_a_metric_of_behaviour_is_told_where_it_changed_for_certain(entry):
    sides = {"before": {"estimate": 0.5, "low": 0.4, "high": 0.6}, "after": ZERO}
    certain = {"estimate": -0.5, "low": -0.6, "high": -0.4}
    line = "truncated 50.0% → 0%, \u221250.0 points (\u221260.0 to \u221240.0)"
    assert line in comparison_page(entry | {"truncated": sides | {"change": certain}}).splitlines()
    assert "truncated" not in comparison_page(entry | {"truncated": sides | {"change": certain | {"high": 0.1}}})


def test_instruments_that_do_not_apply_are_named_once_per_reason(entry):
    page = " ".join(comparison_page(entry).split())
    assert "measured: prompts; not applicable: tree, where (D3) (ids differ)" in page


def test_identical_weights_are_told_as_exactly_nothing_by_response(entry):
    d1 = {"total": ZERO, "expansion": ZERO, "reshaping": GAIN, "attrition": ZERO}
    entry["trajectories"] = {"factor": 11.2, "d1": d1}
    assert "exactly 0" not in comparison_page(entry)
    page = comparison_page(entry | {"same_weights": True})
    row = next(line for line in page.splitlines() if line.startswith("response, x11"))
    assert row.split("  ")[0] == "response, x11" and row.count("exactly 0") == 2 and "+50.0 [+25.0, +75.0]" in row
    assert "The weights are the same." in page


def test_branches_stand_below_their_beginnings(entry):
    both = {"cell": "shared"}
    nodes = [
        {"token": "a", "parent": -1, "depth": 1, "ends": False, "before": 0.9, "after": 0.8, "right": None} | both,
        {"token": "b", "parent": -1, "depth": 1, "ends": True, "before": 0.1, "after": 0.2, "right": False} | both,
        {"token": "c", "parent": 0, "depth": 2, "ends": True, "before": 0.9, "after": 0.8, "right": True} | both,
    ]
    entry["tree"] = {"prompt": "two", "prompt_id": "1", "why": "asked for", "source": "sampled", "nodes": nodes,
                     "residual": {"before": 0.0, "after": 0.0}}  # fmt: skip
    lines = comparison_page(entry).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("branches of 'two'"))
    assert [line.split("  ")[0] for line in (lines[at + 2], lines[at + 4])] == ["a", "b"]
    assert lines[at + 3].startswith("  c") and lines[at + 3].endswith("right") and "asked for; sampled" in lines[at + 6]


def test_what_all_prompts_begin_with_is_left_out(entry):
    for row, text in zip(entry["prompts"], ("What is 1 + 2?", "What is 1 + 30?", "What is 4?"), strict=True):
        row["prompt"] = text
    lines = comparison_page(entry).splitlines()
    gained, lost = (next(line for line in lines if line.startswith(f"{way}  ")) for way in ("gained", "lost"))
    assert gained.endswith("  ...1 + 2?") and lost.endswith("  ...1 + 30?")


def test_points_never_show_a_signed_nothing():
    assert points({"estimate": -1e-9, "low": -2e-9, "high": 0.01}) == "0.0 [0.0, +1.0]"
    assert points(ZERO) == "0"
