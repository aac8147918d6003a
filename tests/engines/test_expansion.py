"""The response tree of a model, expanded with kept keys and values, against plain forward passes."""

import itertools

import numpy as np
import pytest
import torch

from offon.behavior.change.enumeration import enumerate_support
from offon.behavior.change.prefix_tree import support
from offon.engines import expansion
from offon.engines.api import Request
from offon.engines.expansion import Expansion, expand
from offon.engines.native import NativeEngine
from offon.errors import ConfigError
from offon.types import Sampling
from tests.rounding import FLOAT32, FLOAT32_SUM
from tests.support import model as tiny

pytestmark = pytest.mark.slow

PROMPT, HORIZON, EPS = (3, 5, 4), 3, 0.01


@pytest.fixture(scope="module")
def models():
    return tiny(0), tiny(1)


def forward(model, prefix, temperature=1.0):
    with torch.no_grad():
        logits = model.hf(input_ids=torch.tensor([[*PROMPT, *prefix]])).logits[0, -1].double()
    return (logits / temperature).softmax(-1).numpy()


def brute_force(model, temperature):
    """Every prefix of a response with its reach."""
    reach, frontier = {}, {(): 1.0}
    for _ in range(HORIZON):
        grown = {}
        for prefix, mass in frontier.items():
            for token, p in enumerate(forward(model, prefix, temperature)):
                reach[*prefix, token] = mass * p
                if token not in model.stop_ids:
                    grown[*prefix, token] = mass * p
        frontier = {prefix: mass for prefix, mass in grown.items() if mass >= EPS}
    return {prefix for prefix, mass in reach.items() if mass >= EPS}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_effective_support_is_that_of_plain_forward_passes(models, temperature):
    sampling = Sampling(temperature=temperature)
    for model in models:
        [found] = expand([model], [PROMPT], sampling, eps=EPS, horizon=HORIZON)
        inside = {found.tree.path(edge) for edge in np.flatnonzero(support(found.tree, EPS)[:, 0])}
        assert inside == brute_force(model, temperature) and len(inside) > 10
        ended = found.tree.reach[found.tree.ends].sum(axis=0)
        assert ended + found.residual == pytest.approx([1.0], abs=FLOAT32)


def test_the_union_tree_has_the_reach_of_both_models(models):
    [found] = expand(models, [PROMPT], eps=0.05, horizon=HORIZON)
    for edge, policy in itertools.product(range(0, len(found.tree), 5), (0, 1)):
        path = found.tree.path(edge)
        truth = np.prod([forward(models[policy], path[:t])[token] for t, token in enumerate(path)])
        assert found.tree.reach[edge, policy] == pytest.approx(truth, rel=FLOAT32_SUM)


def test_prompts_of_unequal_length_expanded_together_are_each_by_itself(models):
    """Several prompts, two of them equal, in one decoder: tree by tree what each gives alone, whatever fits at once."""
    prompts = [PROMPT, (7,), (3, 5), PROMPT, (2, 9, 4, 4, 8)]
    alone = [expand(models, [prompt], eps=0.03, horizon=HORIZON)[0] for prompt in prompts]
    policies = [Expansion(model, prompts) for model in models]
    for rows in (4096, 20):
        together = enumerate_support(policies, eps=0.03, stop=models[0].stop_ids, horizon=HORIZON, rows=rows)
        for one, other in zip(alone, together, strict=True):
            paths = [{one.tree.path(e): one.tree.log_reach[e] for e in range(len(one.tree))} for one in (one, other)]
            assert paths[0].keys() == paths[1].keys() and len(paths[0]) > 5
            assert all(np.allclose(paths[0][path], paths[1][path], atol=FLOAT32_SUM) for path in paths[0])
            assert one.residual == pytest.approx(other.residual, abs=FLOAT32)


def test_a_truncated_sampler_has_the_support_that_it_samples(models):
    sampling = Sampling(top_p=0.7, max_tokens=HORIZON)
    model = models[0]
    [found] = expand([model], [PROMPT], sampling, eps=0.0, horizon=HORIZON)
    sampled = NativeEngine().generate([Request(PROMPT, sampling, (1, i)) for i in range(50)], model)
    paths = {found.tree.path(edge): edge for edge in np.flatnonzero(support(found.tree, 1e-12)[:, 0])}
    for completion in sampled:
        edge = paths[tuple(completion.tokens)]
        assert found.tree.log_reach[edge, 0] == pytest.approx(sum(completion.logp), abs=FLOAT32_SUM)


def test_the_padded_path_gives_the_same_tree(models):
    import dataclasses

    padded = dataclasses.replace(models[0], why="asked for")
    trees = [expand([model], [PROMPT], eps=EPS, horizon=HORIZON)[0].tree for model in (models[0], padded)]
    assert len(trees[0]) == len(trees[1]) and np.allclose(trees[0].log_reach, trees[1].log_reach, atol=FLOAT32_SUM)


def test_a_greedy_sampler_is_refused(models):
    with pytest.raises(ConfigError, match="one response"):
        Expansion(models[0], [PROMPT], Sampling(temperature=0))


def test_every_prompt_stops_where_it_says(models, monkeypatch):
    """The tree of prompts with different stop tokens is that of each by itself, in the order of the prompts."""
    other = (4, 3)
    monkeypatch.setattr(expansion, "stops_after", lambda model, prefix: (1, 5) if tuple(prefix) == other else (1,))
    prompts = [PROMPT, other, PROMPT, other]
    together = expand(models, prompts, eps=0.05, horizon=HORIZON)
    for prompt, found in zip(prompts, together, strict=True):
        [alone] = expand(models, [prompt], eps=0.05, horizon=HORIZON)
        paths = [{one.tree.path(edge) for edge in range(len(one.tree))} for one in (found, alone)]
        assert paths[0] == paths[1] and any(5 in path[:-1] for path in paths[0]) == (prompt == PROMPT)
