"""The native engine against transformers: same greedy tokens, same log-probs, for every kind of attention it caches.

All weights are random with a spread of 0.1, so that neighbouring logits differ by about 0.1; float32, one thread.
"""

import warnings

import numpy as np
import pytest
import torch

from offon.engines.api import Request
from offon.engines.native import NativeEngine
from offon.errors import ConfigError, DataError, NumericsError
from offon.models.decode import DecodeState
from offon.models.model import Model
from offon.models.packed.attention import Plan
from offon.models.packed.layout import Layout
from offon.types import Sampling
from tests.engines.support import largest_error, plain_logits, plain_logp, prompt, requests
from tests.models.architectures import build
from tests.rounding import FLOAT32

# windows; windows + softcap; windows + sinks; values narrower than keys; learned positions; shared KV layers; no kwargs
CACHED = ["Qwen3", "Gemma3", "Gemma2", "gpt-oss", "DeepSeek-V3", "GPT2", "Gemma4", "StableLM"]
REPLAYED = ["Bloom", "Mamba2"]
GROUPS = [(prompt(11, 1), 3), (prompt(4, 2), 1), (prompt(1, 3), 2), (prompt(23, 4), 4)]
GAP = 1e-4  # two greedy tokens may be swapped where their logits differ by less: rounding decides


def wrapped(name: str, **changes) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the padded path is announced by a warning
        return Model.wrap(build(name, **changes), device="cpu")


@pytest.fixture(scope="module")
def qwen3() -> Model:
    return wrapped("Qwen3")


@pytest.fixture(scope="module")
def endless() -> Model:
    """A model without stop ids: every completion has max_tokens tokens."""
    return wrapped("Qwen3", eos_token_id=None)


def same_greedy(hf, prefix, tokens, expected) -> bool:
    """Equal up to a first difference within GAP, after which the sequences go their own ways."""
    for step, (ours, theirs) in enumerate(zip(tokens, expected, strict=False)):
        if ours != theirs:
            logits = plain_logits(hf, prefix, expected)[step]
            return float((logits[ours] - logits[theirs]).abs()) < GAP
    return len(tokens) == len(expected)


@pytest.mark.parametrize("name", CACHED + REPLAYED)
@pytest.mark.slow
def test_greedy_tokens_are_those_of_transformers_generate(name):
    """With fewer slots than requests, prompts of four lengths and two lengths of completion, on both decoders."""
    reference, model = build(name), wrapped(name)
    assert model.packed == (name in CACHED)
    new = (5, 14) if model.packed else (3, 6)
    asked = [Request(r.prefix, Sampling(temperature=0, max_tokens=n), r.key) for r in requests(GROUPS) for n in new]
    completions = NativeEngine(max_slots=5, prefill_tokens=30).generate(asked, model)
    for request, completion in zip(asked, completions, strict=True):
        ids = torch.tensor([request.prefix])
        expected = reference.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=request.sampling.max_tokens
        )[0, len(request.prefix) :].tolist()
        assert same_greedy(reference, request.prefix, completion.tokens, expected)
        assert completion.logp == [0.0] * len(completion.tokens)


@pytest.mark.parametrize("name", CACHED + REPLAYED)
def test_reported_logp_is_that_of_the_plain_forward(name):
    reference, model = build(name), wrapped(name)
    asked = requests(GROUPS, temperature=1.3, max_tokens=14 if model.packed else 5)
    completions = NativeEngine(max_slots=4, prefill_tokens=30).generate(asked, model)
    assert largest_error(reference, asked, completions, temperature=1.3) < FLOAT32


@pytest.mark.parametrize("name, lost", [("Gemma3", "window"), ("Gemma2", "softcap"), ("gpt-oss", "sinks")])
def test_a_dropped_part_of_attention_would_be_seen(name, lost, monkeypatch):
    """Negative control of the two tests above; and a model loaded while a part is dropped is not decoded so."""
    model, attend = wrapped(name), DecodeState.attend
    monkeypatch.setattr(DecodeState, "attend", lambda self, *args, **kw: attend(self, *args, **(kw | {lost: None})))
    asked = requests(GROUPS, max_tokens=14)
    assert largest_error(build(name), asked, NativeEngine().generate(asked, model)) > 1e-3
    with pytest.warns(UserWarning, match="decoded slowly.*differ from scored ones"):
        wary = Model.wrap(build(name))
    assert wary.packed and not wary.keeps_keys(1)
    few = asked[:2]
    assert largest_error(build(name), few, NativeEngine().generate(few, wary)) < 1e-5


@pytest.mark.fault("F29")
def test_truncated_sampling_reports_the_renormalised_logp(qwen3):
    """With top-p and top-k the log-prob is that of the cut distribution, as transformers' logits processors cut it."""
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    warp = LogitsProcessorList([TemperatureLogitsWarper(0.8), TopKLogitsWarper(20), TopPLogitsWarper(0.6)])
    asked = requests(GROUPS, temperature=0.8, top_k=20, top_p=0.6, max_tokens=14)
    for request, completion in zip(asked, NativeEngine().generate(asked, qwen3), strict=True):
        logits = warp(None, plain_logits(qwen3.hf, request.prefix, completion.tokens))
        expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
        assert (torch.tensor(completion.logp) - expected).abs().max() < FLOAT32
        full = plain_logp(qwen3.hf, request.prefix, completion.tokens, temperature=0.8)
        assert (expected - full).min() > 0.1  # the control: cutting 40% of the mass is not a rounding error


@pytest.mark.parametrize("name", ["Qwen3", "gpt-oss", "Bloom"])
def test_a_sample_depends_on_its_own_request_only(name):
    """Order, slots, prefill batches, group composition and the other requests' settings change no token."""
    model = wrapped(name)
    new = 10 if model.packed else 4
    asked = requests(GROUPS, max_tokens=new)
    by_key = dict(zip([r.key for r in asked], NativeEngine().generate(asked, model), strict=True))
    assert len({tuple(c.tokens) for c in by_key.values()}) == len(asked)

    shuffled = [asked[i] for i in np.random.default_rng(0).permutation(len(asked))]
    others = requests([(prompt(11, 1), 2), (prompt(7, 9), 5)], temperature=0.5, top_p=0.7, max_tokens=new - 1)
    others = [Request(r.prefix, r.sampling, (8, *r.key)) for r in others]
    for slots, prefill, batch in [
        (1, 1, asked),
        (3, 4096, shuffled),
        (64, 12, shuffled[:4]),
        (5, 20, shuffled + others),
    ]:
        completions = NativeEngine(max_slots=slots, prefill_tokens=prefill).generate(batch, model)
        for request, completion in zip(batch[: len(asked)], completions, strict=False):
            assert completion.tokens == by_key[request.key].tokens
            assert np.allclose(completion.logp, by_key[request.key].logp, atol=FLOAT32)


def test_drawing_in_pieces_changes_nothing(qwen3, monkeypatch):
    """Logits of two slots at a time, rows of every kind among them."""
    asked = [
        Request(prompt(6), sampling, (i, j))
        for i, sampling in enumerate([Sampling(max_tokens=8), Sampling(max_tokens=8, temperature=0, top_p=0.5)])
        for j in range(3)
    ]
    whole = NativeEngine().generate(asked, qwen3)
    monkeypatch.setattr("offon.engines.native.LOGITS", 2 * 97)
    pieces = NativeEngine().generate(asked, qwen3)
    assert [c.tokens for c in pieces] == [c.tokens for c in whole]
    assert all(np.allclose(a.logp, b.logp, atol=FLOAT32) for a, b in zip(pieces, whole, strict=True))


def test_a_longer_limit_continues_the_same_sample(endless):
    short, long = (NativeEngine().generate(requests(GROUPS, max_tokens=n), endless) for n in (3, 9))
    assert [c.tokens for c in short] == [c.tokens[:3] for c in long]


def test_a_finished_slot_is_refilled_at_once(endless, monkeypatch):
    """Two slots, lengths 8, 2, 2, 2, 2: the first slot's 8 draws last as long as the other four sequences together.

    Waiting for both slots to finish would take 8 + 2 + 2 rounds.
    """
    rounds = []
    next_logits = Model.next_logits
    monkeypatch.setattr(Model, "next_logits", lambda self, h: rounds.append(len(h)) or next_logits(self, h))
    asked = [Request(prompt(5, n), Sampling(max_tokens=n), (i,)) for i, n in enumerate([8, 2, 2, 2, 2])]
    completions = NativeEngine(max_slots=2).generate(asked, endless)
    assert [len(c.tokens) for c in completions] == [8, 2, 2, 2, 2]
    assert rounds == [2] * 8


def test_a_prompt_is_computed_once_and_every_token_once(endless, monkeypatch):
    """Rows through the model: each distinct prompt, and of each completion all tokens but the last."""
    rows = {Plan: 0, DecodeState: 0}
    flat = Model.flat

    def counted(self, ids, positions, plan):
        rows[type(plan)] += len(ids)
        return flat(self, ids, positions, plan)

    monkeypatch.setattr(Model, "flat", counted)
    NativeEngine(max_slots=3, prefill_tokens=20).generate(requests(GROUPS, max_tokens=6), endless)
    assert rows == {Plan: 11 + 4 + 1 + 23, DecodeState: (3 + 1 + 2 + 4) * (6 - 1)}


def test_any_stop_id_ends_a_completion_and_stays_in_it():
    """Stop ids of the generation config and of the config; the last token of a full-length completion may be one."""
    model = wrapped("Qwen3", eos_token_id=2)
    free = NativeEngine().generate(asked := requests([(prompt(6), 60)], max_tokens=12), model)
    common = np.bincount([t for c in free for t in c.tokens], minlength=97).argsort()[::-1]
    extra = [int(t) for t in common if t != 2][:3]
    model.core.generation_config.eos_token_id = extra
    assert model.stop_ids == tuple(sorted([2, *extra]))

    stopped = NativeEngine(max_slots=7).generate(asked, model)
    for before, after in zip(free, stopped, strict=True):
        ends = [i for i, token in enumerate(before.tokens) if token in model.stop_ids]
        length = ends[0] + 1 if ends else 12
        assert after.tokens == before.tokens[:length]
        assert after.stop == ("stop" if ends else "length")
    assert {c.tokens[-1] for c in stopped} >= set(extra)  # every one of them did stop something
    assert any(c.stop == "length" for c in stopped) and min(len(c.tokens) for c in stopped) == 1


def test_no_requests_give_no_completions(qwen3):
    assert NativeEngine().generate([], qwen3) == []


def test_progress_counts_finished_requests(endless):
    seen = []
    NativeEngine(max_slots=4).generate(requests(GROUPS, max_tokens=2), endless, lambda *now: seen.append(now))
    assert seen[-1] == (10, 10) and seen == sorted(seen) and len(seen) == 3


def test_the_model_is_left_as_it_was(qwen3):
    """Modes of submodules are restored, no gradient appears, and training on the same weights still works."""
    qwen3.hf.train()
    qwen3.core.model.layers[0].eval()
    modes = [module.training for module in qwen3.hf.modules()]
    completion = NativeEngine().generate(asked := requests([(prompt(6), 1)], max_tokens=4), qwen3)[0]
    assert modes == [module.training for module in qwen3.hf.modules()]
    assert all(p.grad is None for p in qwen3.hf.parameters())
    qwen3.logp(Layout.of([(asked[0].prefix, completion.tokens)])).sum().backward()
    assert all(p.grad is not None for p in qwen3.hf.parameters())
    qwen3.hf.zero_grad()


def test_kv_memory_bounds_the_slots(endless, monkeypatch):
    """2 layers, 2 key heads of width 8, float32: 256 bytes per token, so that a quarter MiB holds 1024 tokens."""
    widths = []
    next_logits = Model.next_logits
    monkeypatch.setattr(Model, "next_logits", lambda self, h: widths.append(len(h)) or next_logits(self, h))
    NativeEngine(kv_bytes=2**18).generate(requests(GROUPS, max_tokens=9), endless)
    assert max(widths) == 1024 // (23 + 9 + 64) == 10
    NativeEngine(kv_bytes=1).generate(requests(GROUPS, max_tokens=2), endless)
    assert widths[-1] == 1


def test_what_cannot_fit_the_positions_is_refused_with_the_numbers(qwen3):
    """128 positions: 100 of prompt leave 28."""
    fits = Request(prompt(100), Sampling(max_tokens=28), (0,))
    assert len(NativeEngine().generate([fits], qwen3)) == 1
    with pytest.raises(ConfigError, match="request 1 .* 129 tokens, the model has 128 positions") as error:
        NativeEngine().generate([fits, Request(prompt(100), Sampling(max_tokens=29), (1,))], qwen3)
    assert "at most 28" in str(error.value)


@pytest.mark.parametrize(
    "wrong", [dict(temperature=-1), dict(temperature=np.nan), dict(top_p=0), dict(top_k=-1), dict(max_tokens=0)]
)
def test_impossible_sampling_is_refused(wrong, qwen3):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        NativeEngine().generate([Request(prompt(3), Sampling(**wrong), (0,))], qwen3)


def test_an_empty_prefix_is_refused(qwen3):
    with pytest.raises(DataError, match="empty prefix"):
        NativeEngine().generate([Request((), Sampling(), (0,))], qwen3)


@pytest.mark.fault("F24")
@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_not_finite_stop_the_run(broken, temperature):
    model = wrapped("Qwen3")
    with torch.no_grad():
        model.core.model.norm.weight[3] = broken
    with pytest.raises(NumericsError, match="not finite in 3 of 3"):
        NativeEngine().generate(requests([(prompt(3), 3)], temperature=temperature, max_tokens=2), model)
