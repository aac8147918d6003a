"""What no path computes right is refused in words; what loading must not change stays."""

import json
import warnings

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from offon.errors import ModelError
from offon.models.adapters import merged
from offon.models.loading import last_saved
from offon.models.model import Model
from offon.models.packed.layout import Layout
from tests import support
from tests.models import architectures
from tests.models.architectures import COMMON
from tests.models.test_lengths import own_logp
from tests.models.test_model import tokenizer

SEQUENCES = architectures.sequences()


def tiny(kind: str, **settings) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**(COMMON | settings))
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return hf


def saved(path, hf):
    hf.save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["BertConfig", "BertGenerationConfig", "ElectraConfig", "RoFormerConfig"])
def test_two_way_models_are_refused(kind):
    with pytest.raises(ModelError, match="reads ahead: it is no causal language model"):
        Model.wrap(tiny(kind, **({"embedding_size": 32} if kind in ("ElectraConfig", "RoFormerConfig") else {})))


@pytest.mark.parametrize(
    "kind, settings",
    [
        ("BertConfig", dict(is_decoder=True)),
        ("ModernBertDecoderConfig", dict(layer_types=["sliding_attention", "full_attention"], local_attention=8)),
    ],
)
def test_heads_with_layers_of_their_own_are_replayed(kind, settings):
    model = Model.wrap(tiny(kind, **settings), device="cpu")
    with torch.no_grad():
        gap = model.logp(Layout.of(SEQUENCES)) - own_logp(tiny(kind, **settings), SEQUENCES)
    assert gap.abs().max() < 1e-5 and model.head.replayed is not None


def test_a_model_that_decodes_otherwise_than_it_scores_is_decoded_whole():
    """diffllama's layers share a key across heads in a way that a store of keys does not keep."""
    with pytest.warns(UserWarning, match="decoded slowly.*differ from scored ones by 1"):
        model = Model.wrap(tiny("DiffLlamaConfig"), device="cpu")
    assert model.packed and not model.keeps_keys(4)


def test_numbers_that_act_in_eval_mode_are_left_alone_and_saved(tmp_path):
    """PhiMoE's jitter is the threshold of a mask in its router: at 0 it is another model."""
    settings = dict(head_dim=8, num_local_experts=4, num_experts_per_tok=2, router_jitter_noise=0.05)
    path = saved(tmp_path / "a", tiny("PhimoeConfig", attention_dropout=0.25, **settings))
    model = Model.load(path, device="cpu", checkpointing=True)
    with torch.no_grad():
        expected = own_logp(tiny("PhimoeConfig", **settings), SEQUENCES)
        assert (model.logp(Layout.of(SEQUENCES)) - expected).abs().max() < 1e-5
        other = own_logp(tiny("PhimoeConfig", **settings | dict(router_jitter_noise=0.0)), SEQUENCES)
        assert (other - expected).abs().max() > 1e-3
    model.save(tmp_path / "b")
    written = json.loads((tmp_path / "b" / "config.json").read_text())
    assert (written["router_jitter_noise"], written["attention_dropout"]) == (0.05, 0.25)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors"])
def test_quantised_checkpoints_are_refused_by_name(method, tmp_path):
    path = saved(tmp_path / "q", architectures.build("Qwen3"))
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4, "load_in_4bit": True}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"quantised \({method}\)"):
        Model.load(path)


@pytest.mark.fault("F21")
def test_tokens_without_a_row_in_the_embedding_are_refused(tmp_path):
    path = saved(tmp_path / "s", architectures.build("Qwen3", vocab_size=90))
    with pytest.raises(ModelError, match="token ids up to 96, the embedding 90 rows"):
        Model.load(path)


@pytest.mark.parametrize("rows", [97, 100])
def test_a_reward_model_that_pads_with_its_end_scores_in_transformers_what_it_scores_here(rows, tmp_path):
    """Without another special token the padding is a new one where the embedding has room, and else none."""
    base, words = tmp_path / "base", tokenizer()
    words.pad_token, words.bos_token = words.eos_token, None
    words.unk_token = None
    ends = dict(pad_token_id=5, eos_token_id=5, bos_token_id=None)
    architectures.build("Qwen3", vocab_size=rows, **ends).save_pretrained(base)
    words.save_pretrained(base)
    model = Model.load(base, head="score", device="cpu")
    with torch.no_grad():
        model.core.score.weight.normal_()
    model.save(tmp_path / "rm")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    assert theirs.config.pad_token_id == (None if rows == 97 else 97)
    ending = [(prefix, [*response, 5]) for prefix, response in SEQUENCES]
    with torch.no_grad():
        ours = model.numbers(model.hidden(Layout.of(ending, place="at"))).split([len(r) for _, r in ending])
        for (prefix, response), numbers in zip(ending, ours, strict=True):
            expected = theirs(input_ids=torch.tensor([prefix + response])).logits.flatten()
            assert torch.allclose(numbers[-1:], expected, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Model.load(tmp_path / "rm", device="cpu")


def test_a_reward_model_made_elsewhere_that_reads_early_is_named(tmp_path):
    AutoModelForSequenceClassification.from_pretrained(
        saved(tmp_path / "base", architectures.build("Qwen3")), num_labels=1, pad_token_id=5, eos_token_id=5
    ).save_pretrained(tmp_path / "rm")
    tokenizer().save_pretrained(tmp_path / "rm")
    with pytest.warns(UserWarning, match="reads its score one token before the end"):
        Model.load(tmp_path / "rm", device="cpu")


@pytest.mark.fault("F40")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "targets", [("lm_head",), ("embed_tokens",), ("q_proj", "lm_head", "embed_tokens"), ("q_proj",)]
)
def test_merging_an_adapter_on_tied_embeddings_gives_the_model_it_adapts(targets, tmp_path):
    from peft import LoraConfig, get_peft_model

    hf = architectures.build("Qwen3", tie_word_embeddings=True)
    adapted = get_peft_model(hf, LoraConfig(r=2, target_modules=list(targets), task_type="CAUSAL_LM")).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
        ids = torch.tensor([SEQUENCES[0][0]])
        expected = adapted(input_ids=ids).logits
        merged(adapted).save_pretrained(tmp_path / "m")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
        assert (again(input_ids=ids).logits - expected).abs().max() < 1e-4
    assert again.config.tie_word_embeddings == (targets == ("q_proj",))


def test_a_token_that_the_tokenizers_class_adds_by_default_is_no_reason_to_refuse(tmp_path):
    """transformers' class for qwen2 adds <|endoftext|> to whatever was saved; the weights need no row for it."""
    saved_model, saved_tokenizer = support.qwen3(), support.tokenizer()
    saved_model.save_pretrained(tmp_path)
    saved_tokenizer.save_pretrained(tmp_path)
    rows = saved_model.get_input_embeddings().weight.shape[0]
    last = max(saved_tokenizer.get_vocab().values())
    assert last < rows and last_saved(tmp_path, 10**6) == last
    (tmp_path / "tokenizer.json").unlink()
    assert last_saved(tmp_path, 10**6) == 10**6
