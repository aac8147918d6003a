"""The planted bottlenecks of the testbed are told apart, and rollouts go where they are needed."""

import pytest

from offon.loops.diagnose import diagnose_model

PLANTED = {"rare": "ranking", "absent": "missing", "format": "format", "scaffold": "fragile", "guard": "solved"}


@pytest.fixture(scope="module")
def diagnosis():
    return diagnose_model("testbed:base", {"testbed": list(PLANTED)}, prompts=40, budget=96, k=32, max_tokens=8, seed=1)


def test_decided_prompts_have_their_planted_bottleneck(diagnosis):
    """Thresholds are far from the planted rates; one prompt in twenty may be off (confidence .9)."""
    calls = [(PLANTED[prompt["family"]], prompt["call"]) for prompt in diagnosis["prompts"]]
    decided = [(planted, call) for planted, call in calls if call != "undecided"]
    assert len(decided) >= 0.9 * len(calls)
    assert sum(planted == call for planted, call in decided) >= 0.95 * len(decided)


def test_rollouts_go_where_they_are_needed(diagnosis):
    """A solved prompt is called after the first rollouts; one below support is placed and given no further ones."""
    for prompt in diagnosis["prompts"]:
        if prompt["call"] == "solved":
            assert prompt["strict"][1] == 32 and "placed" not in prompt
        if prompt["call"] == "missing":
            assert prompt["placed"][1] > 0 and prompt["strict"][1] <= 48
    assert diagnosis["cost"]["rollouts"] < 0.6 * 40 * 96


def test_controls_are_reported(diagnosis):
    notes = " ".join(diagnosis["notes"])
    assert "after another prompt's prefix the model succeeds in 0 of" in notes
    assert "prefixes already hold the answer" in notes


def test_the_same_seed_gives_the_same_diagnosis(diagnosis):
    again = diagnose_model(
        "testbed:base", {"testbed": list(PLANTED)}, prompts=40, budget=96, k=32, max_tokens=8, seed=1
    )
    for entry in (again, diagnosis):
        entry["cost"].pop("seconds", None)
    assert again == diagnosis


def test_a_teacher_without_the_skill_places_nobody():
    """Its four tries fail, the references stand in, and even they do not help: the skill is missing."""
    entry = diagnose_model(
        "testbed:base", {"testbed": ["absent"]}, teacher="testbed:base", prompts=6, budget=96, max_tokens=8
    )
    assert {prompt["call"] for prompt in entry["prompts"]} == {"missing"}
    assert entry["cost"]["teacher_tokens"] > 0


def test_no_reachable_prompt_is_called_before_its_scaffold_was_tried():
    """Untried, a scaffold counts as no help: a fragile prompt with some successes would be called ranking."""
    entry = diagnose_model("testbed:base", {"testbed": ["scaffold", "guard"]}, prompts=12, budget=64, max_tokens=8)
    for prompt in entry["prompts"]:
        assert ("scaffold" in prompt) == (prompt["family"] == "scaffold")


def test_one_failing_prompt_has_no_placebo():
    """The placebo is a wrong response to another prompt; with nobody else failing there is none, and no crash."""
    entry = diagnose_model(
        "testbed:base", {"testbed": ["absent"]}, teacher="testbed:base", prompts=1, budget=96, max_tokens=8
    )
    assert "placebo" not in entry["prompts"][0]
