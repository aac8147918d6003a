"""Whether RL has a success to start from is asked of a stage's rollouts, not of one prompt's."""

import numpy as np
import pytest

from offon.behavior.diagnosis.diagnose import diagnose, measured_outcomes
from offon.behavior.diagnosis.rl_start import Start, starts
from offon.behavior.statistics.checker_errors import Checker
from offon.behavior.statistics.counts import Counts


def test_the_chance_is_that_of_all_rollouts_together():
    """10 of 10,000 rollouts, 2,000 more: 1 - (1 - .001)^2000 = .8648 at the rate that was seen; doubt about the rate
    (10.5 of 10,001 by Jeffreys' prior, a gamma) makes it 1 - (1 + .2)^-10.5 = .8526 on average."""
    start = Start.of(Counts.of([1] * 10 + [0] * 90, 100), 20)
    assert (start.successes, start.seen, start.rollouts) == (10, 10_000, 2_000) and start.expected == pytest.approx(2)
    assert start.chance.estimate == pytest.approx(1 - 1.2**-10.5, abs=2e-3)
    assert start.chance.low < 0.8648 < start.chance.high and not start.sure


def test_no_prompt_within_reach_and_still_sure_to_start():
    """One success in 64 on every second of 200 prompts: 8 rollouts of one show none in 94%, 1,600 hold 12.5."""
    start = Start.of(Counts.of([0, 1] * 100, 64), 8)
    assert start.sure and start.expected == pytest.approx(12.5)
    assert start.words == "about 12 successes in the 1,600 rollouts of a stage (8 a prompt)"


def test_no_success_is_no_proof_of_none():
    start = Start.of(Counts.of([0] * 50, 64), 32)
    assert start.chance.low < 0.01 and 0.5 < start.chance.high < 0.95
    assert start.words == (
        "none of 3,200 rollouts succeeded, and the 1,600 rollouts of a stage (32 a prompt) hold one with a probability "
        "of 71% at most"
    )


def test_solved_prompts_do_not_start_others():
    strict = Counts.of([64, 64, 0, 0], 64)
    of_family = starts(strict, ["solved", "solved", "unsupported", "unsupported"], ["a", "a", "b", "b"], 32)
    assert set(of_family) == {"b"} and of_family["b"].successes == 0


def test_a_checkers_errors_are_no_successes():
    """5% of wrong responses are accepted: 60 accepted of 1,280 are nothing to start from."""
    checker = Checker(accepted_right=200, right=200, accepted_wrong=100, wrong=2000)
    strict = Counts.of([3] * 20, 64)
    assert Start.of(strict, 8).sure and not Start.of(strict, 8, checker=checker).sure


def entry_of(successes, n=64, k=8, families=None):
    strict = [[1.0] * c + [0.0] * (n - c) for c in successes]
    names = families or ["all"] * len(strict)
    prompts = [{"id": str(i), "family": name, "prompt": ""} for i, name in enumerate(names)]
    return diagnose(measured_outcomes(strict, None), prompts, k=k)


def test_words_agree_with_the_numbers():
    """Mean success .1, most prompts out of their own reach: RL is not spoken against. With no success at all it is."""
    rng = np.random.default_rng(0)
    rare = entry_of(rng.binomial(64, rng.beta(0.1, 0.9, 120)))
    assert sum(prompt["call"] == "unsupported" for prompt in rare["prompts"]) > 40
    assert "RL has successes to start from: about" in rare["sentence"]
    [advice] = [one for one in rare["suggestions"] if one["call"] == "unsupported"]
    assert (
        "RL" not in advice["avoid"]
        and "grpo" in advice["methods"]
        and "RL has successes to start from" in advice["reason"]
    )
    never = entry_of([0] * 40, k=4)
    assert "RL may have nothing to start from: none of 2,560 rollouts succeeded" in never["sentence"]
    assert never["suggestions"][0]["avoid"] == "plain RL" and "grpo" not in never["suggestions"][0]["methods"]
    assert "use none" not in never["sentence"] + rare["sentence"]


def test_families_are_told_apart():
    both = entry_of([2] * 20 + [0] * 20, families=["some"] * 20 + ["none"] * 20)
    assert "RL has successes to start from on some: about" in both["sentence"]
    assert "on none it may have nothing: none of 1,280 rollouts succeeded" in both["sentence"]
    assert both["rl_start"]["some"]["successes"] == 40 and both["rl_start"]["none"]["rollouts"] == 160


def test_successes_in_content_alone_are_not_said_to_be_rewarded():
    """Content right in a tenth, accepted never: within reach by content, and nothing that a reward could see."""
    strict, content = ([[1.0] * c + [0.0] * (128 - c)] * 3 for c in (0, 16))
    prompts = [{"id": str(i), "family": "all", "prompt": ""} for i in range(3)]
    entry = diagnose(measured_outcomes(strict, content), prompts, k=64)
    assert {(p["call"], p["sub"]) for p in entry["prompts"]} == {("ranking", "content only")}
    assert "grpo" not in entry["suggestions"][0]["methods"] and "groups of 8" not in entry["suggestions"][0]["reason"]
    assert "3 right in content within 64 rollouts, hardly ever in form" in entry["sentence"]
