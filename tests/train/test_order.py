"""What is drawn and what is sampled is a function of the seed and of place, whatever stops and batches lie between."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offon.engines.api import Request
from offon.engines.factory import create_engine
from offon.recipe.fields import NodeSettings
from offon.train.state import Counters, TrainState
from offon.types import Sampling
from tests.support import ParityTask, model, prompt_group

PROMPTS = [prompt_group(item) for item in ParityTask().items("train")][:7]


def drawer(seed: int, draws: int) -> TrainState:
    """A stage of 7 prompts that has drawn so many, as a new process finds it."""
    state = object.__new__(TrainState)
    state.prompts, state.settings = PROMPTS, NodeSettings(init=".", steps=1, seed=seed)
    state.node, state.state = SimpleNamespace(name="stage"), Counters(draws=draws)
    return state


@pytest.mark.fault("F34")
@given(
    seed=st.integers(0, 2**31), buffers=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=9)
)
def test_the_order_of_prompts_is_the_same_however_often_it_stops(seed, buffers):
    """(size of a buffer, whether the process ends after it), again and again."""
    state, drawn = drawer(seed, 0), []
    for size, stops in buffers:
        drawn += state.more(size)
        state = drawer(seed, state.state.draws) if stops else state
    straight = drawer(seed, 0).more(sum(size for size, _ in buffers))
    assert [(group.item.id, group.draw) for group in drawn] == [(group.item.id, group.draw) for group in straight]
    for first in range(0, len(drawn) - 6, 7):
        assert len({group.item.id for group in drawn[first : first + 7]}) == 7, "every prompt once in a pass"


REQUESTS = [
    Request(tuple(PROMPTS[i % 7].prompt), Sampling(temperature=t, max_tokens=6), (seed, i))
    for i, (t, seed) in enumerate([(1.0, 0), (0.7, 0), (1.0, 1), (2.0, 1), (1.0, 0), (0.5, 2)])
]


@pytest.fixture(scope="module")
def sampled():
    policy = model(0)
    return policy, [create_engine().generate([request], policy)[0].tokens for request in REQUESTS]


@pytest.mark.fault("F34")
@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(len(REQUESTS))), cut=st.integers(0, len(REQUESTS)))
def test_a_response_is_that_of_its_key_in_whatever_company_and_order(sampled, order, cut):
    policy, alone = sampled
    for part in (order[:cut], order[cut:]):
        completions = create_engine().generate([REQUESTS[i] for i in part], policy) if part else []
        assert [list(one.tokens) for one in completions] == [list(alone[i]) for i in part]
