"""The diagnosis in words and as an entry of diagnosis.json."""

import json

import pytest

from offon.behavior.bottleneck import CALLS
from offon.behavior.diagnose import REMEDIES, diagnose, measured_outcomes, sentence
from offon.errors import DataError
from offon.methods import registry


def outcomes(successes, n):
    return [[1.0] * c + [0.0] * (n - c) for c in successes]


def prompts(n):
    return [{"id": f"p{i}", "family": "ab"[i % 2], "prompt": f"question {i}"} for i in range(n)]


def test_the_sentence():
    calls = ["solved"] * 61 + ["ranking"] * 84 + ["missing"] * 40 + ["undecided"] * 15
    assert sentence(calls, 64) == (
        "of 200 prompts: 61 solved, 84 reachable at 64 rollouts, 40 missing the skill, 15 undecided; "
        "on-policy RL can use 84 of them; 40 need demonstrations or hints"
    )
    assert sentence(["format", "unsupported"], 8) == (
        "of 2 prompts: 1 right but in the wrong format, 1 not reached at 8 rollouts; on-policy RL can use none of "
        "them; 1 needs the format taught or the checker fixed; 1 needs demonstrations or hints"
    )
    assert sentence(["solved"], 8) == "of 1 prompt: 1 solved"


def test_every_call_has_a_remedy_of_methods_that_exist():
    known = {info.name for info in registry.catalogue()}
    for call in CALLS:
        for words in REMEDIES[call].methods:
            assert set(words.split(" with ")) <= known, words
    assert all(REMEDIES[call].signature and REMEDIES[call].avoid for call in CALLS if REMEDIES[call].methods)


def test_the_entry_of_diagnosis_json():
    measured = measured_outcomes(outcomes([64, 0, 20, 0], 64), outcomes([64, 60, 22, 0], 64))
    entry = json.loads(json.dumps(diagnose(measured, prompts(4), k=64, model="base", task="chain")))
    assert [prompt["call"] for prompt in entry["prompts"]] == ["solved", "format", "ranking", "unsupported"]
    assert entry["prompts"][1]["strict"] == [0, 64] and entry["prompts"][1]["content"] == [60, 64]
    by_family = {row["family"]: row for row in entry["summary"]}
    assert (by_family["a"]["n"], by_family["a"]["solved"], by_family["a"]["ranking"]) == (2, 1, 1)
    assert (by_family["b"]["format"], by_family["b"]["unsupported"]) == (1, 1)
    assert sum(share["estimate"] for share in entry["prevalence"].values()) == pytest.approx(1)
    methods = {suggestion["call"]: suggestion["methods"] for suggestion in entry["suggestions"]}
    assert "grpo" in methods["ranking"] and "grpo" not in methods["unsupported"]
    assert entry["sentence"].startswith("of 4 prompts: 1 solved")


def test_what_could_not_be_shown_is_said():
    measured = measured_outcomes(outcomes([0, 8], 16) + [[None] * 16], None)
    entry = diagnose(measured, prompts(3), k=64)
    notes = " ".join(entry["notes"])
    assert "16 samples per prompt cannot show that a prompt is not reached at 64 rollouts: that takes 29" in notes
    assert "wrong format cannot be told" in notes
    assert "1 prompt without any scored sample" in notes
    assert [prompt["call"] for prompt in entry["prompts"]] == ["undecided", "ranking", "undecided"]
    assert all(prompt["content"] is None for prompt in entry["prompts"])
    below = diagnose(measured_outcomes(outcomes([0], 64), None), prompts(1), k=64)
    assert any("without a teacher local, unreachable and missing are not told apart" in note for note in below["notes"])


def test_a_gap_in_content_verdicts_does_not_bias_the_strict_rate():
    """Content known only where strict succeeded: dropping the other samples would call this prompt solved."""
    measured = measured_outcomes([[1.0] * 10 + [0.0] * 54], [[1.0] * 10 + [None] * 54])
    entry = diagnose(measured, prompts(1), k=64)["prompts"][0]
    assert entry["call"] == "ranking" and entry["strict"] == [10, 64] and entry["content"] is None


def test_strict_success_with_content_failure_is_refused():
    with pytest.raises(DataError, match="strict success and content failure"):
        measured_outcomes([[1.0, 0.0]], [[0.0, 1.0]])
