"""Log-probs and gradients of the packed and the tree form against the model's own forward, one sequence at a time.

Metrics: log-probs, largest absolute difference in nats. Gradients, per tensor: largest absolute difference over the
tensor's norm, where norms below a thousandth of the whole gradient's count as that (a key bias has true gradient 0).
"""

import pytest
import torch
from transformers import AttentionInterface

from offon.models.model import Model
from offon.models.packed import attention
from offon.models.packed.attention import NAME, attention_function
from offon.models.packed.layout import Layout
from tests.models import architectures
from tests.rounding import FLOAT32

pytestmark = pytest.mark.slow

SEQUENCES = architectures.sequences()
TARGETS = sum(len(response) for _, response in SEQUENCES)
LAYOUTS = {"tree": Layout.of(SEQUENCES), "packed": Layout.of(SEQUENCES, share=False)}
TEMPERATURE = torch.linspace(0.5, 1.7, TARGETS)
WEIGHTS = torch.linspace(-1.0, 1.0, TARGETS)
LOGP_NATS = FLOAT32
GRADIENT = FLOAT32


def plain(model, temperature=None):
    """Log-probs [M] and gradients of sum(weight * logp), by the model's own eager forward on each sequence."""
    temperatures = (torch.ones(TARGETS) if temperature is None else temperature).split([len(r) for _, r in SEQUENCES])
    logps = []
    for (prefix, response), t in zip(SEQUENCES, temperatures, strict=True):
        logits = model(input_ids=torch.tensor([prefix + response]), use_cache=False).logits[0, len(prefix) - 1 : -1]
        logps.append((logits / t[:, None]).log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0])
    return torch.cat(logps).detach(), gradients(model, torch.cat(logps))


def gradients(model, logp):
    model.zero_grad()
    (logp * WEIGHTS).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def relative_error(ours, theirs):
    floor = 1e-3 * torch.stack([g.norm() for g in theirs.values()]).norm()
    assert ours.keys() <= theirs.keys()
    gaps = {name: (ours.get(name, torch.zeros_like(g)) - g).abs().max() for name, g in theirs.items()}
    return max(float(gaps[name] / g.norm().clamp_min(floor)) for name, g in theirs.items())


@pytest.mark.parametrize("name", architectures.PACKED)
def test_logp_and_gradients_equal_the_plain_forward(name):
    hf = architectures.build(name)
    expected = {"plain": plain(hf), "tempered": plain(hf, TEMPERATURE)}
    model = Model.wrap(hf)
    assert model.packed, model.why
    for form, kind in (("tree", "plain"), ("packed", "plain"), ("tree", "tempered"), ("packed", "tempered")):
        logp = model.logp(LAYOUTS[form], TEMPERATURE if kind == "tempered" else None)
        expected_logp, expected_gradients = expected[kind]
        assert (logp - expected_logp).abs().max() < LOGP_NATS, (form, kind)
        error = relative_error(gradients(hf, logp), expected_gradients)
        assert error < GRADIENT, (form, kind, error)


DROPPED = {
    "window": ("Gemma3", dict(window=None)),
    "softcap": ("Gemma2", dict(softcap=None)),
    "sinks": ("gpt-oss", dict(s_aux=None)),
    "scale": ("Granite", dict(scaling=None)),
}


@pytest.fixture
def dropping():
    """Register an attention function that forgets one argument, as a careless port would."""
    attention.register()  # happens once: not over the careless one

    def register(lost):
        def careless(module, query, key, value, mask, **kwargs):
            if "window" in lost:
                object.__setattr__(mask, "window", None)
                kwargs.pop("sliding_window", None)
            return attention_function(module, query, key, value, mask, **{**kwargs, **lost, "window": None})

        AttentionInterface.register(NAME, careless)

    yield register
    AttentionInterface.register(NAME, attention_function)


@pytest.mark.parametrize("what", DROPPED)
def test_a_dropped_feature_is_seen(what, dropping):
    name, lost = DROPPED[what]
    hf = architectures.build(name)
    expected, expected_gradients = plain(hf)
    dropping(lost)
    model = Model.wrap(hf, check=False)
    for layout in LAYOUTS.values():
        logp = model.logp(layout)
        assert (logp - expected).abs().max() > 100 * LOGP_NATS
        assert relative_error(gradients(hf, logp), expected_gradients) > 1e-3


@pytest.mark.parametrize("what", DROPPED)
def test_the_self_check_sees_a_dropped_feature(what, dropping):
    name, lost = DROPPED[what]
    dropping(lost)
    with pytest.warns(UserWarning, match="padded path.*differ from its own"):
        model = Model.wrap(architectures.build(name))
    assert not model.packed


@pytest.mark.parametrize("name", architectures.PADDED)
def test_models_that_cannot_be_packed_are_padded_and_right(name):
    hf = architectures.build(name)
    expected = {"plain": plain(hf), "tempered": plain(hf, TEMPERATURE)}
    with pytest.warns(UserWarning, match="padded path"):
        model = Model.wrap(hf)
    assert not model.packed and model.why
    for kind, (expected_logp, expected_gradients) in expected.items():
        logp = model.logp(LAYOUTS["tree"], TEMPERATURE if kind == "tempered" else None)
        assert (logp - expected_logp).abs().max() < LOGP_NATS
        assert relative_error(gradients(hf, logp), expected_gradients) < GRADIENT


@pytest.mark.parametrize("name", ["Mamba2", "Qwen3-Next", "LFM2", "Falcon-H1"])
def test_the_self_check_sees_recurrent_layers_that_do_not_complain(name, monkeypatch):
    monkeypatch.setattr("offon.models.packed.forward._packing", lambda plan, device: {})
    with pytest.warns(UserWarning, match="padded path.*mix tokens of different sequences"):
        Model.wrap(architectures.build(name))


def test_a_layout_is_scored_the_same_in_any_order_and_any_split():
    hf = architectures.build("Qwen3")
    model = Model.wrap(hf)
    whole = model.logp(LAYOUTS["tree"]).split(LAYOUTS["tree"].lengths)
    order = [5, 2, 7, 0, 3, 1, 6, 4]
    shuffled = Layout.of([SEQUENCES[i] for i in order])
    for i, logp in zip(order, model.logp(shuffled).split(shuffled.lengths), strict=True):
        assert torch.allclose(logp, whole[i], atol=FLOAT32)
    for i, pair in enumerate(SEQUENCES):
        assert torch.allclose(model.logp(Layout.of([pair])), whole[i], atol=FLOAT32)


def test_a_model_of_few_positions_is_checked_within_them():
    assert Model.wrap(architectures.build("GPT2", n_positions=8)).packed


def test_bfloat16_and_autocast_stay_within_their_rounding():
    expected, _ = plain(architectures.build("Qwen3"))
    model = Model.wrap(architectures.build("Qwen3"))
    with torch.autocast("cpu", torch.bfloat16):
        assert (model.logp(LAYOUTS["tree"]) - expected).abs().max() < 0.1
    low = Model.wrap(architectures.build("Qwen3").bfloat16())
    assert low.packed, low.why
    logp = low.logp(LAYOUTS["tree"])
    assert logp.dtype == torch.float32
    assert (logp - expected).abs().max() < 0.1


def test_checkpointed_layers_give_the_same_gradients():
    for name in ("Qwen3", "Gemma4", "StableLM"):
        results = []
        for checkpointing in (False, True):
            hf = architectures.build(name)
            model = Model.wrap(hf, checkpointing=checkpointing)
            results.append(gradients(hf, model.logp(LAYOUTS["tree"])))
        assert relative_error(*results) == 0, name


def test_generate_still_works_and_is_unchanged():
    for name in ("Qwen3", "Gemma2", "gpt-oss"):
        hf = architectures.build(name)
        ids = torch.tensor([SEQUENCES[0][0]])
        options = dict(max_new_tokens=12, do_sample=False, pad_token_id=0)
        expected = hf.generate(ids, **options)
        assert torch.equal(Model.wrap(hf).hf.generate(ids, **options), expected), name
