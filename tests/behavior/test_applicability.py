"""Which instruments are chosen, and the words in which the others are declined."""

import dataclasses

import numpy as np
import pytest

from offon.behavior.change.applicability import EXACT_SHARE, Facts, affordable, choose

SHORT = Facts(
    k=32, temperature=1.0, parameters=(10**6, 10**6), vocabulary=47, longest=8, median_tokens=6.0, prompts=64,
    tokens=2 * 64 * 128 * 6, entropy=(0.3, 0.4), inside=(np.inf, np.inf), evaluations=64 * 40, classes="answer",
    changed=True,
)  # fmt: skip


def chosen(**changes):
    return {one.name: one for one in choose(dataclasses.replace(SHORT, **changes))}


def test_short_responses_of_one_vocabulary_have_everything_but_the_whole_tree():
    assert [name for name, one in chosen().items() if not one.applies] == ["states (D2)"]


def test_every_instrument_is_named_whatever_applies():
    names = list(chosen())
    for changes in ({"other_tokens": "47 and 50 tokens"}, {"temperature": 0.0}, {"classes": None}, {"changed": False}):
        found = chosen(**changes)
        assert list(found) == names and all(one.why for one in found.values())


@pytest.mark.slow
def test_long_responses_have_relative_support_instead_of_absolute():
    """At 0.3 nats a token E_eps (eps .046 at k = 64) ends near ln(22) / 0.3 = 10 tokens."""
    found = chosen(
        k=64, longest=4096, median_tokens=4096.0, inside=(10.0, 11.0), entropy=(0.3, 0.25), vocabulary=150_000
    )
    assert found["exact support"].why == (
        "4,096-token responses: absolute support ends near token 10 at 0.30 nats a token; relative support instead"
    )
    assert found["trajectories"].applies and found["tree"].applies and found["where (D3)"].applies


def test_another_vocabulary_leaves_what_needs_no_common_tokens():
    found = chosen(other_tokens="47 and 50 tokens")
    assert [name for name, one in found.items() if one.applies] == ["prompts", "classes", "k to solve"]
    assert "47 and 50" in found["trajectories"].why and "counts alone" in found["k to solve"].why


def test_a_greedy_sampler_has_no_distribution():
    found = chosen(temperature=0.0)
    assert [name for name, one in found.items() if one.applies] == ["prompts", "classes", "where (D3)"]


def test_enumeration_never_costs_more_than_its_share():
    for evaluations in (64 * 40, 64 * 400, 64 * 4000, 64 * 10**6):
        facts = dataclasses.replace(SHORT, evaluations=evaluations)
        prompts = affordable(facts)
        assert prompts * evaluations / 64 <= EXACT_SHARE * SHORT.tokens
        assert chosen(evaluations=evaluations)["exact support"].applies == (prompts > 0)
    assert affordable(SHORT) == 64


def test_the_whole_tree_is_enumerated_where_that_is_affordable():
    """Vocabulary 5 and 3 tokens: 2 (1 + 5 + 25) = 62 evaluations a prompt; a quarter of 256 tokens is 64."""
    small = {"vocabulary": 5, "longest": 3, "median_tokens": 3.0, "tokens": 64 * 256}
    assert chosen(**small)["states (D2)"].applies
    diffuse = chosen(**small, inside=(0.0, 0.0), evaluations=10**9)
    assert diffuse["exact support"].applies and diffuse["exact support"].why == "every response is enumerated"
    assert not chosen(**{**small, "tokens": 64 * 240})["states (D2)"].applies
    assert "5 tokens to the power of 3" in chosen(**{**small, "tokens": 64 * 240})["states (D2)"].why
