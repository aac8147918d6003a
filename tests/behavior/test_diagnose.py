"""Diagnosis: the rule on clear cases, decision boundaries, calibration under its own prior, the plain words."""

import json

import numpy as np
import pytest

from offon.behavior.counts import Counts
from offon.behavior.diagnose import (
    CLASSES,
    class_calls,
    class_probabilities,
    diagnose,
    samples_to_call_not_reached,
    sentence,
)
from offon.behavior.intervals import jeffreys_above
from offon.behavior.support import support_threshold
from offon.errors import DataError


def calls_of(strict, content, n, k=64):
    content = None if content is None else Counts.of(content, n)
    return class_calls(class_probabilities(Counts.of(strict, n), content, k))


def outcomes(successes, n):
    return [[1.0] * c + [0.0] * (n - c) for c in successes]


def prompts(n):
    return [{"id": f"p{i}", "family": "ab"[i % 2], "prompt": f"question {i}"} for i in range(n)]


def test_clear_cases():
    strict, content = [128, 2, 40, 0, 100], [128, 120, 45, 0, 102]
    assert calls_of(strict, content, 128) == ["solved", "format", "reachable", "not_reached", "undecided"]


def test_without_content_verdicts_a_format_failure_looks_like_a_missing_skill():
    assert calls_of([0], [128], 128) == ["format"]
    assert calls_of([0], None, 128) == ["not_reached"]


def test_without_content_verdicts_the_posterior_is_the_strict_rate_alone():
    strict = Counts.of(np.arange(33), 32)
    solved, format_, *_ = class_probabilities(strict, None, 64).T
    np.testing.assert_allclose(solved, jeffreys_above(*strict, 0.8), atol=1 / 500)  # the width of a draw
    assert not format_.any()


@pytest.mark.parametrize("n, most_not_reached, least_reachable", [(64, 0, 6), (128, 2, 9), (256, 7, 17)])
def test_boundaries_at_k_64(n, most_not_reached, least_reachable):
    """Jeffreys posterior at .9 against eps = .0457."""
    calls = calls_of(range(n + 1), None, n)
    assert n - calls[::-1].index("not_reached") == most_not_reached
    assert calls.index("reachable") == least_reachable
    assert calls[n] == "solved"


@pytest.mark.parametrize("k", [8, 64, 1024])
def test_samples_needed_to_call_not_reached_are_the_fewest(k):
    n = samples_to_call_not_reached(k)
    assert calls_of([0], None, n, k) == ["not_reached"]
    assert calls_of([0], None, int(0.9 * n), k) == ["undecided"]


@pytest.mark.parametrize("n", [16, 64])
def test_probabilities_are_calibrated_under_the_prior(n):
    """1,000 prompts with p_content and ratio from Jeffreys' prior: stated and realised accuracy agree within 3 sd.

    Decided prompts claim .975 to .99 on average; with some 450 decided one sd is .006.
    """
    rng = np.random.default_rng(n)
    p_content, ratio = rng.beta(0.5, 0.5, (2, 1000))
    content = rng.binomial(n, p_content)
    strict = rng.binomial(content, ratio)
    probabilities = class_probabilities(Counts.of(strict, n), Counts.of(content, n), 64)
    p_strict = p_content * ratio
    truth = np.select(
        [p_strict >= 0.8, (p_content >= 0.25) & (ratio < 0.5), p_content >= support_threshold(64)],
        CLASSES[:3],
        CLASSES[3],
    )
    calls = np.array(class_calls(probabilities))
    decided = calls != "undecided"
    claimed = probabilities.max(axis=1)[decided]
    realised = (calls == truth)[decided]
    assert decided.mean() > 0.4 and realised.mean() > 0.9
    assert realised.mean() == pytest.approx(
        claimed.mean(), abs=3 * np.sqrt((claimed * (1 - claimed)).mean() / len(claimed))
    )
    shares = [(truth == name).mean() for name in CLASSES]
    np.testing.assert_allclose(probabilities.mean(axis=0), shares, atol=3 * 0.5 / np.sqrt(1000))


def test_a_prompt_is_judged_on_its_own_counts():
    strict, content = Counts.of([3, 50, 0], 64), Counts.of([30, 51, 1], 64)
    together = class_probabilities(strict, content, 32)
    for index in range(3):
        alone = class_probabilities(strict.at([index]), content.at([index]), 32)
        np.testing.assert_array_equal(alone[0], together[index])
    np.testing.assert_allclose(together.sum(axis=1), 1)


def test_the_sentence():
    calls = ["solved"] * 61 + ["reachable"] * 84 + ["not_reached"] * 40 + ["undecided"] * 15
    assert sentence(calls, 64) == (
        "of 200 prompts: 61 solved, 84 reachable at 64 rollouts, 40 not reached, 15 undecided; "
        "on-policy RL can use 84 of them; 40 need demonstrations or hints"
    )
    assert sentence(["format", "not_reached"], 8) == (
        "of 2 prompts: 1 right but in the wrong format, 1 not reached; on-policy RL can use none of them; "
        "1 needs the format taught or the checker fixed; 1 needs demonstrations or hints"
    )
    assert sentence(["solved"], 8) == "of 1 prompt: 1 solved"


def test_the_entry_of_diagnosis_json():
    strict, content = outcomes([64, 0, 20, 0], 64), outcomes([64, 60, 22, 0], 64)
    entry = json.loads(json.dumps(diagnose(strict, content, prompts(4), k=64, model="base", task="chain")))
    assert [prompt["call"] for prompt in entry["prompts"]] == ["solved", "format", "reachable", "not_reached"]
    assert entry["prompts"][1]["strict"] == [0, 64] and entry["prompts"][1]["content"] == [60, 64]
    by_family = {row["family"]: row for row in entry["summary"]}
    assert (by_family["a"]["n"], by_family["a"]["solved"], by_family["a"]["reachable"]) == (2, 1, 1)
    assert (by_family["b"]["format"], by_family["b"]["not_reached"]) == (1, 1)
    assert sum(share["estimate"] for share in entry["prevalence"].values()) == pytest.approx(1)
    methods = {suggestion["call"]: suggestion["methods"] for suggestion in entry["suggestions"]}
    assert "grpo" in methods["reachable"] and "grpo" not in methods["not_reached"]
    assert entry["sentence"].startswith("of 4 prompts: 1 solved")


def test_what_could_not_be_shown_is_said():
    entry = diagnose(outcomes([0, 8], 16) + [[None] * 16], None, prompts(3), k=64)
    notes = " ".join(entry["notes"])
    assert "16 samples per prompt cannot show that a prompt is not reached at 64 rollouts: that takes 29" in notes
    assert "wrong format cannot be told" in notes
    assert "1 prompt without any scored sample" in notes
    assert [prompt["call"] for prompt in entry["prompts"]] == ["undecided", "reachable", "undecided"]
    assert all(prompt["content"] is None for prompt in entry["prompts"])


def test_a_gap_in_content_verdicts_does_not_bias_the_strict_rate():
    """Content known only where strict succeeded: dropping the other samples would call this prompt solved."""
    strict = [[1.0] * 10 + [0.0] * 54]
    content = [[1.0] * 10 + [None] * 54]
    entry = diagnose(strict, content, prompts(1), k=64)["prompts"][0]
    assert entry["call"] == "reachable" and entry["strict"] == [10, 64] and entry["content"] is None


def test_strict_success_with_content_failure_is_refused():
    with pytest.raises(DataError, match="strict success and content failure"):
        diagnose([[1.0, 0.0]], [[0.0, 1.0]], prompts(1), k=4)
