"""What changes with length: no pack, padding or slot changes its members. Against the model's own forward on each
sequence alone, and decoded log-probs against scored ones, at lengths below, at and beyond what configurations name."""

import warnings

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from offon.engines.api import Request
from offon.engines.expansion import expand
from offon.engines.native import NativeEngine
from offon.errors import ConfigError
from offon.models import check
from offon.models.model import Model
from offon.models.packed import lengths
from offon.models.packed.layout import Layout
from offon.models.packed.lengths import forget_lengths
from offon.types import Sampling
from tests.models.architectures import COMMON, LATENT, VOCABULARY

pytestmark = pytest.mark.slow

TURN = 20
FACTORS = dict(short_factor=[1.0, 1.1, 1.2, 1.5], long_factor=[2.0, 4.0, 8.0, 16.0])
LONG = dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=TURN, **FACTORS)
SCALES = dict(short_mscale=1.1, long_mscale=1.3)
LLAMA4 = dict(head_dim=8, intermediate_size_mlp=48, num_local_experts=2)
ROWS = dict(attention_chunk_size=512, floor_scale=200, attn_temperature_tuning=True, no_rope_layers=[0, 0])
DYNAMIC = dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0)
KINDS = {
    "phi3": ("Phi3Config", dict(head_dim=8, rope_parameters=LONG, original_max_position_embeddings=TURN)),
    "phimoe": (
        "PhimoeConfig",
        dict(
            head_dim=8,
            num_local_experts=4,
            num_experts_per_tok=2,
            original_max_position_embeddings=TURN,
            rope_parameters=LONG | SCALES,
        ),
    ),
    "minicpm3": (
        "MiniCPM3Config",
        LATENT | dict(v_head_dim=8, dim_model_base=64, qk_rope_head_dim=8, rope_parameters=LONG),
    ),
    "llama": ("LlamaConfig", dict(max_position_embeddings=TURN, rope_parameters=DYNAMIC)),
    "falcon": ("FalconConfig", dict(max_position_embeddings=TURN, rope_parameters=DYNAMIC, alibi=False)),
    "llama4 rows": ("Llama4TextConfig", LLAMA4 | ROWS),
    "llama4 chunks": ("Llama4TextConfig", LLAMA4 | dict(attention_chunk_size=2 * TURN)),
    "window": ("MistralConfig", dict(sliding_window=TURN)),
}


def tiny(name: str) -> torch.nn.Module:
    kind, settings = KINDS[name]
    torch.manual_seed(1)
    config = getattr(transformers, kind)(**(COMMON | settings))
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return hf


def loaded(name: str) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Model.wrap(tiny(name), device="cpu")


def tokens(n: int, seed: int) -> list[int]:
    return torch.randint(3, VOCABULARY, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def own_logp(hf, sequences) -> torch.Tensor:
    """By the model's own forward on each sequence, as a model that has seen nothing before computes it."""
    found = []
    for prefix, response in sequences:
        forget_lengths(hf)
        logits = hf(input_ids=torch.tensor([prefix + response]), use_cache=False).logits[0, len(prefix) - 1 : -1]
        found.append(logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0])
    return torch.cat(found)


PROMPT = tokens(6, 1)
SEQUENCES = [(PROMPT, tokens(n, n)) for n in (3, 34, 13, 14, 15, 1)] + [(tokens(40, 2), tokens(9, 3))]
FEW = [(PROMPT, tokens(4, n)) for n in range(30)]  # 300 rows: beyond 200


@pytest.mark.parametrize("name", KINDS)
def test_every_member_of_a_pack_has_the_log_probs_it_has_alone(name):
    """6 + 14 tokens are at the turn, 6 + 15 the first beyond it: one row less is fed, and the length still counts."""
    model, sequences = loaded(name), SEQUENCES + FEW
    with torch.no_grad():
        expected = own_logp(tiny(name), sequences)
        for share in (True, False):
            layout = Layout.of(sequences, share=share)
            assert (model.logp(layout) - expected).abs().max() < 1e-5, share
        assert model.packed == (name != "falcon")


@pytest.mark.parametrize("name", ["phi3", "llama4 rows"])
def test_gradients_of_a_split_batch_are_those_of_plain_forwards(name):
    model, plain = loaded(name), tiny(name)
    sequences = SEQUENCES[:4]
    model.logp(Layout.of(sequences)).sum().backward()
    own_logp(plain, sequences).sum().backward()
    ours = dict(model.hf.named_parameters())
    for key, parameter in plain.named_parameters():
        if parameter.grad is not None:
            gap = (ours[key].grad - parameter.grad).abs().max()
            assert gap < 1e-5 * parameter.grad.norm() + 1e-5, key


def test_the_turn_is_seen():
    """Negative control: as one pack, the long sequence changes the short ones, by far more than rounding."""
    model = loaded("phi3")
    expected = own_logp(tiny("phi3"), SEQUENCES).detach()
    assert (model.lengths.kind, model.lengths.turn) == ("longrope", TURN)
    model.lengths = lengths.Lengths()
    with torch.no_grad():
        assert (model.logp(Layout.of(SEQUENCES)) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("llama", "falcon")])
def test_what_is_drawn_is_what_is_scored(name):
    """Prompts on both sides of the turn, one exactly at it, in one call with fewer slots than requests."""
    model = loaded(name)
    prompts = [tokens(n, n) for n in (4, 15, TURN - 1, TURN, TURN + 1, 31)] * 2
    asked = [Request(tuple(p), Sampling(max_tokens=12), (i,)) for i, p in enumerate(prompts)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        drawn = NativeEngine(max_slots=5).generate(asked, model)
        alone = [NativeEngine().generate([request], model)[0] for request in asked[:6]]
    assert [c.tokens for c in drawn[:6]] == [c.tokens for c in alone]
    pairs = [(p, c.tokens) for p, c in zip(prompts, drawn, strict=True)]
    with torch.no_grad():
        scored = own_logp(tiny(name), pairs)
    assert (scored - torch.cat([torch.tensor(c.logp) for c in drawn])).abs().max() < 1e-5
    turned = model.lengths.turn is not None
    assert any("take" in str(w.message) and "other factors" in str(w.message) for w in said) == turned
    lengths_ = [len(p) + len(t) for p, t in pairs if len(p) < TURN]
    assert max(lengths_) == TURN if turned else max(lengths_) > TURN


def test_dynamic_factors_are_scored_and_not_sampled_beyond_their_turn():
    model = loaded("llama")
    model.config.max_position_embeddings = 64  # what refuses first
    with pytest.raises(ConfigError, match="other factors with every token"):
        NativeEngine().generate([Request(tuple(tokens(TURN, 1)), Sampling(max_tokens=2), (0,))], model)


def test_support_is_not_enumerated_across_a_turn():
    model = loaded("phi3")
    with pytest.raises(ConfigError, match="changes for the whole sequence"):
        expand([model], [tuple(PROMPT)], eps=0.5, horizon=TURN)
    assert expand([model], [tuple(PROMPT)], eps=0.5, horizon=2)


@pytest.mark.parametrize("name, setting", [("window", "sliding_window"), ("llama4 rows", "floor_scale")])
def test_the_check_lowers_what_the_configuration_names_and_puts_it_back(name, setting):
    hf = tiny(name)
    before = [(module, vars(module)[setting]) for module in hf.modules() if setting in vars(module)]
    with check.lowered(hf, [setting]):
        assert getattr(hf.config, setting) == check.LOWERED
        assert all(vars(module)[setting] == check.LOWERED for module, _ in before)
    assert getattr(hf.config, setting) == KINDS[name][1][setting]
    assert all(vars(module)[setting] == old for module, old in before)


def test_a_model_whose_pack_is_exact_up_to_a_size_says_so():
    assert loaded("llama4 chunks").lengths.rows == 2 * TURN
    assert loaded("llama4 rows").lengths.rows == 200
    assert loaded("window").lengths.rows is None
