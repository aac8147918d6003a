"""Two checkpoints on one task: the null is exact by trajectory, and a better model is told from a worse one."""

import pytest

from offon.loops.compare import compare_models

TASK = {"testbed": ["rare", "guard"]}
SMALL = {"prompts": 12, "samples": 48, "k": 8, "max_tokens": 8}


def test_the_same_checkpoint_twice():
    entry = compare_models("testbed:base", "testbed:base", TASK, **SMALL)
    d1 = entry["trajectories"]["d1"]
    for term in ("expansion", "attrition"):
        assert d1[term] == {"estimate": 0, "low": 0, "high": 0}
    assert entry["role"]["name"] == "no change"
    assert entry["trajectories"]["bits"]["novelty"] == pytest.approx(0, abs=0.2)
    assert entry["d1"]["total"]["low"] <= 0 <= entry["d1"]["total"]["high"]


def test_a_better_model():
    entry = compare_models("testbed:student", "testbed:base", TASK, **SMALL)
    assert entry["d1"]["total"]["low"] > 0.05 and entry["role"]["name"] in ("reshaping", "mixed")
    assert set(entry["families"]) == {"rare", "guard"}
    assert "success" in entry["sentence"] and "points" in entry["sentence"]
    d1 = entry["trajectories"]["d1"]
    total = d1["expansion"]["estimate"] + d1["reshaping"]["estimate"] - d1["attrition"]["estimate"]
    assert total == pytest.approx(entry["d1"]["total"]["estimate"], abs=1e-9)
