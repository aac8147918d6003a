"""Sampled frequencies against exact probabilities, truncation, and randomness by key.

Chi-square tests reject a right sampler in 1 of 1000 seeds (ALPHA); the seeds are fixed and were not searched.
"""

from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from offon.engines.native import NativeEngine
from offon.engines.sampling import Columns, sample, truncated, uniforms
from offon.types import Sampling
from tests.engines.support import requests
from tests.support import model as tiny_model

ALPHA = 1e-3
EOS, V = 1, 14


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@torch.no_grad()
def exact_probabilities(hf, prefix, length: int, sampling: Sampling) -> dict[tuple[int, ...], float]:
    """Every response of up to `length` tokens, by plain forwards and the logits processors of transformers."""
    warpers = [TemperatureLogitsWarper(float(sampling.temperature))]
    warpers += [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    warpers += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    warp = LogitsProcessorList(warpers)
    done, growing = {}, {(): 1.0}
    for _ in range(length):
        ids = torch.tensor([[*prefix, *response] for response in growing])
        p = torch.softmax(warp(None, hf(input_ids=ids, use_cache=False).logits[:, -1]).double(), -1)
        grown = {
            (*response, token): mass * float(p[row, token])
            for (row, (response, mass)), token in product(enumerate(growing.items()), range(V))
            if p[row, token] > 0
        }
        done |= {response: mass for response, mass in grown.items() if response[-1] == EOS}
        growing = {response: mass for response, mass in grown.items() if response[-1] != EOS}
    return done | growing


def chi_square_p(drawn, probabilities) -> float:
    """Pearson's test; responses expected fewer than 5 times are one cell together. Impossible responses give 0."""
    if not set(drawn) <= set(probabilities):
        return 0.0
    counts = {response: 0 for response in probabilities}
    for response in drawn:
        counts[response] += 1
    expected = np.array(list(probabilities.values())) * len(drawn)
    observed = np.array(list(counts.values()))
    rare = expected < 5
    expected = np.append(expected[~rare], expected[rare].sum())
    observed = np.append(observed[~rare], observed[rare].sum())
    if expected[-1] < 5:
        expected, observed = expected[:-1], observed[:-1]
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


SETTINGS = {
    "plain": dict(),
    "temperature": dict(temperature=0.6),
    "top_p": dict(top_p=0.8),
    "top_k": dict(top_k=4),
    "all": dict(temperature=1.4, top_p=0.7, top_k=6),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_responses_come_with_their_exact_probability(name, model):
    """4000 responses of up to 3 tokens, joint frequencies, from a group of one prompt in 256 slots with refills."""
    sampling = dict(max_tokens=3, **SETTINGS[name])
    prefix = (3, 7, 5)
    drawn = NativeEngine(max_slots=256).generate(requests([(prefix, 4000)], **sampling), model)
    drawn = [tuple(c.tokens) for c in drawn]
    assert chi_square_p(drawn, exact_probabilities(model.hf, prefix, 3, Sampling(**sampling))) > ALPHA
    if name != "plain":
        assert chi_square_p(drawn, exact_probabilities(model.hf, prefix, 3, Sampling(max_tokens=3))) < 1e-6


def test_the_chi_square_test_sees_a_small_bias(model):
    """Negative control: a temperature of 1.1 in place of 1 is rejected."""
    prefix = (3, 7, 5)
    drawn = NativeEngine().generate(requests([(prefix, 4000)], temperature=1.1, max_tokens=3), model)
    exact = exact_probabilities(model.hf, prefix, 3, Sampling(max_tokens=3))
    assert chi_square_p([tuple(c.tokens) for c in drawn], exact) < 1e-6


def test_settings_are_columns():
    """Rows of one batch with different settings get what each would get alone, bit for bit."""
    settings = [
        Sampling(),
        Sampling(temperature=0),
        Sampling(temperature=0.5),
        Sampling(top_k=3),
        Sampling(top_p=0.4),
        Sampling(temperature=2, top_p=0.9, top_k=20),
    ]
    logits = torch.randn(len(settings), 50) * 3
    uniform = torch.rand(len(settings), dtype=torch.float64)
    together = sample(logits, uniform, Columns.of(settings))
    for row, setting in enumerate(settings):
        alone = sample(logits[row : row + 1], uniform[row : row + 1], Columns.of([setting]))
        assert [int(together[0][row]), float(together[1][row])] == [int(alone[0]), float(alone[1])]


def test_inverse_cdf_by_hand():
    """p = (0.2, 0, 0.5, 0.3): uniforms below 0.2 give token 0, below 0.7 token 2, else token 3; never token 1."""
    logits = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).log().expand(6, -1)
    uniform = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 1 - 2**-53], dtype=torch.float64)
    tokens, logp = sample(logits, uniform, Columns.of([Sampling()] * 6))
    assert tokens.tolist() == [0, 0, 2, 2, 3, 3]
    assert torch.allclose(logp.exp(), torch.tensor([0.2, 0.2, 0.5, 0.5, 0.3, 0.3]))


def test_the_last_uniform_never_draws_a_token_that_was_ruled_out():
    logits = torch.full((1, 9), -torch.inf)
    logits[0, 2:5] = torch.randn(3)
    token, logp = sample(logits, torch.tensor([1 - 2**-53], dtype=torch.float64), Columns.of([Sampling()]))
    assert token.item() == 4 and logp.isfinite()


def test_truncation_by_hand():
    """p = (0.1, 0.4, 0.3, 0.2). top_p 0.69 keeps 0.4 + 0.3; 0.71 needs 0.2 as well.

    After top_k 3 (mass 0.9), 0.4 + 0.3 is 0.78 of what is left: top_p 0.75 keeps two, three without top_k.
    """
    logits = torch.tensor([[0.1, 0.4, 0.3, 0.2]], dtype=torch.float64).log()

    def kept(top_p=None, top_k=None) -> list[int]:
        columns = (None if x is None else torch.tensor([x]) for x in (top_p, top_k))
        return truncated(logits, *columns)[0].isfinite().nonzero()[:, 0].tolist()

    assert kept(top_p=0.69) == [1, 2] and kept(top_p=0.71) == [1, 2, 3]
    assert kept(top_p=0.75) == [1, 2, 3] and kept(top_p=0.75, top_k=3) == [1, 2]
    assert kept(top_p=1e-9) == [1] and kept(top_k=1) == [1] and kept(top_k=9) == [0, 1, 2, 3]


def test_ties_at_the_cut_go_to_the_smaller_id():
    assert truncated(torch.zeros(1, 5), None, torch.tensor([2]))[0].isfinite().tolist() == [True] * 2 + [False] * 3


def test_a_vanishing_temperature_is_greedy():
    logits = torch.randn(20, 30) * 5
    uniform = torch.rand(20, dtype=torch.float64)
    cold, cold_logp = sample(logits, uniform, Columns.of([Sampling(temperature=1e-30)] * 20))
    greedy, greedy_logp = sample(logits, uniform, Columns.of([Sampling(temperature=0)] * 20))
    assert cold.equal(greedy) and cold_logp.equal(greedy_logp) and greedy_logp.abs().max() == 0


def test_uniforms_are_a_function_of_the_key():
    """The stream of a key is that of numpy's Philox with the key's hash, whatever is drawn beside it."""
    alone = uniforms([(1, 2, 3)], 7)
    beside = uniforms([(0,), (1, 2, 3), (3, 2, 1)], 5)
    assert np.array_equal(alone[0, :5], beside[1])
    assert len({row.tobytes() for row in uniforms([(1, 23), (12, 3), (1, 2, 3), (-1,), (1,)], 2)}) == 5
    assert np.array_equal(uniforms([(np.int64(4), 5)], 3), uniforms([(4, 5)], 3))
    import hashlib

    key = np.frombuffer(hashlib.blake2b(b"(1, 2, 3)", digest_size=16).digest(), "<u8")
    assert np.array_equal(alone[0], np.random.Generator(np.random.Philox(key=key)).random(7))


def test_uniforms_of_neighbouring_keys_are_uniform_and_independent():
    """Kolmogorov-Smirnov over the first numbers of 20000 neighbouring keys; correlation of neighbours; ALPHA each."""
    first = uniforms([(0, i) for i in range(20000)], 1)[:, 0]
    assert stats.kstest(first, "uniform").pvalue > ALPHA
    assert stats.pearsonr(first[:-1], first[1:]).pvalue > ALPHA
