"""Loading, saving, adapters and copies; every refusal says what to do."""

import json
import math

import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from offon.errors import ModelError
from offon.models.loading import LoraSpec
from offon.models.model import Model
from offon.models.packed.layout import Layout
from tests.models import architectures
from tests.rounding import FLOAT32

SEQUENCES = architectures.sequences()
LAYOUT = Layout.of(SEQUENCES)
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def tokenizer():
    vocabulary = {f"t{i}": i for i in range(architectures.VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t5", chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "base"
    architectures.build("Qwen3").save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def nudge(model):
    """Move what is trained, as a training step would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.train_parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


@pytest.mark.fault("F40")
def test_what_is_saved_loads_in_transformers_with_equal_logits(directory, tmp_path):
    model = Model.load(directory)
    nudge(model)
    model.save(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    ids = torch.tensor([SEQUENCES[0][0]])
    model.hf.set_attn_implementation("eager")
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model.hf(input_ids=ids).logits)
    assert "offon" not in (tmp_path / "out" / "config.json").read_text()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == TEMPLATE
    assert Model.load(tmp_path / "out").fingerprint() == model.fingerprint()


def test_an_adapter_is_saved_for_peft_and_continued_by_offon(directory, tmp_path):
    model = Model.load(directory, lora=LoraSpec(r=4, alpha=8))
    assert model.adapter_is_new and all("lora" in name for name in model.train_parameters())
    nudge(model)
    model.save(tmp_path / "adapter")
    ids = torch.tensor([SEQUENCES[0][0]])
    base = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")
    peft = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    model.core.set_attn_implementation("eager")
    with torch.no_grad():
        assert torch.equal(peft(input_ids=ids).logits, model.hf(input_ids=ids).logits)
    continued = Model.load(tmp_path / "adapter", lora=LoraSpec(r=4, alpha=8))
    assert continued.packed and not continued.adapter_is_new
    assert continued.fingerprint() == model.fingerprint()
    assert continued.train_parameters().keys() == model.train_parameters().keys()
    with pytest.raises(ModelError, match="r 4 and alpha 8, asked for are 16 and 32"):
        Model.load(tmp_path / "adapter", lora=LoraSpec())


def test_an_adapter_starts_as_the_base_and_can_be_switched_off(directory):
    with torch.no_grad():
        base = Model.load(directory).logp(LAYOUT)
        model = Model.load(directory, lora=LoraSpec(r=4))
        assert torch.equal(model.logp(LAYOUT), base)
        nudge(model)
        assert (model.logp(LAYOUT) - base).abs().max() > 0.01
        with model.adapter_off():
            assert torch.equal(model.logp(LAYOUT), base)


@pytest.mark.parametrize("name", ["Qwen3", "GPT2", "Gemma2", "Qwen3-MoE"])
def test_gradients_of_adapters_equal_those_of_plain_forwards(name):
    model = Model.wrap(architectures.build(name), lora=LoraSpec(r=4))
    assert model.packed
    nudge(model)
    model.logp(LAYOUT).sum().backward()
    ours = {n: p.grad.clone() for n, p in model.train_parameters().items() if p.grad is not None}
    model.core.set_attn_implementation("eager")
    model.hf.zero_grad()
    for prefix, response in SEQUENCES:
        logits = model.hf(input_ids=torch.tensor([prefix + response]), use_cache=False).logits[0, len(prefix) - 1 : -1]
        logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None]).sum().backward()
    for n, parameter in model.train_parameters().items():
        if parameter.grad is not None:
            assert (ours[n] - parameter.grad).abs().max() < FLOAT32 * (parameter.grad.norm() + 1), n


def test_seeds_of_adapters_are_respected():
    first, again, other = (
        Model.wrap(architectures.build("Qwen3"), lora=LoraSpec(r=2, seed=seed)).fingerprint() for seed in (0, 0, 1)
    )
    assert first == again != other


def test_unknown_lora_targets_name_the_known_ones():
    with pytest.raises(ModelError, match=r"some of \['down_proj', 'gate_proj'"):
        Model.wrap(architectures.build("Qwen3"), lora=LoraSpec(target_modules=("qproj",)))


def test_the_fingerprint_sees_every_change_and_nothing_else(directory):
    model = Model.load(directory)
    first = model.fingerprint()
    assert Model.load(directory).fingerprint() == first == model.fingerprint()
    weight = model.core.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        weight[3, 4] = torch.nextafter(weight[3, 4], torch.tensor(9.0))
        changed = model.fingerprint()
        weight[[0, 1]] = weight[[1, 0]]
        swapped = model.fingerprint()
    assert len({first, changed, swapped}) == 3


@pytest.mark.parametrize("shape", [(6, 4), (6, 3), (5,), (7,), (3, 2, 5), ()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_the_fingerprint_sees_every_bit_of_tensors_of_any_shape(shape, dtype):
    """Rows of an even and of an odd number of bytes, a view at an odd offset, a scalar; two entries exchanged in a row
    leave its sum what it was, and change that of a column."""
    n = math.prod(shape)
    stored = torch.arange(1, n + 2).to(dtype)

    def fingerprint(values):
        module = torch.nn.Module()
        module.register_buffer("held", values.reshape(shape))
        return Model(module, None, None).fingerprint()

    first = fingerprint(stored[1:])
    assert fingerprint(stored[1:].clone()) == first
    seen = {first}
    for position in range(n):
        changed = stored.clone()
        changed[1 + position] += 100
        seen.add(fingerprint(changed[1:]))
    if n > 1:
        seen.add(fingerprint(torch.cat([stored[2:3], stored[1:2], stored[3:]])))
    assert len(seen) == 1 + n + (n > 1)


def test_a_frozen_copy_stays_and_shares_what_is_not_trained(directory):
    model = Model.load(directory, lora=LoraSpec(r=4))
    frozen = model.copy_frozen()
    with torch.no_grad():
        before = model.logp(LAYOUT)
        nudge(model)
        assert torch.equal(frozen.logp(LAYOUT), before) and not torch.equal(model.logp(LAYOUT), before)
    assert not frozen.train_parameters() and model.train_parameters()
    weight = "model.layers.0.mlp.up_proj.base_layer.weight"
    assert frozen.core.get_parameter(weight) is model.core.get_parameter(weight)
    whole = Model.load(directory)
    copy = whole.copy_frozen()
    nudge(whole)
    assert whole.fingerprint() != copy.fingerprint()


@pytest.mark.fault("F30")
def test_every_dropout_is_off_and_random_parts_are_refused():
    model = Model.wrap(architectures.build("GPT2", resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3))
    model.hf.train()
    with torch.no_grad():
        assert torch.equal(model.logp(LAYOUT), model.logp(LAYOUT))
    model = Model.wrap(architectures.build("Llama", attention_dropout=0.3))
    model.hf.train()
    model.logp(LAYOUT)
    model.core.model.layers[0].self_attn.attention_dropout = 0.3
    with pytest.raises(ModelError, match=r"attention dropout 0.3"):
        model.logp(LAYOUT)


def test_stop_ids_are_collected_from_everywhere(directory):
    model = Model.load(directory)
    model.core.generation_config.eos_token_id = [2, 7]
    assert model.stop_ids == (2, 5, 7)


def test_bytes_count_shared_weights_once():
    tied, untied = (
        Model.wrap(architectures.build("Qwen3", tie_word_embeddings=tie), check=False).bytes() for tie in (True, False)
    )
    assert untied - tied == 97 * 32 * 4


def test_the_dtype_is_the_one_asked_for(directory, tmp_path):
    hf = architectures.build("Qwen3").bfloat16()
    hf.save_pretrained(tmp_path / "half")
    tokenizer().save_pretrained(tmp_path / "half")
    assert Model.load(tmp_path / "half").dtype == torch.float32
    assert Model.load(directory, dtype=torch.bfloat16).dtype == torch.bfloat16


def refusal(path, **options):
    with pytest.raises(ModelError) as caught:
        Model.load(path, **options)
    assert caught.value.exit_code == 4
    return str(caught.value)


@pytest.mark.fault("F04")
def test_a_misspelt_path_names_its_neighbour(directory):
    text = refusal(str(directory.parent / "bsae"))
    assert "no such model directory" in text and f"did you mean {directory}?" in text
    assert "did you mean" in refusal(str(directory.parent / "bsae" / "checkpoint-3"))


@pytest.mark.fault("F04")
@pytest.mark.parametrize("path", ["/nowhere/model", "./model", "../model", "~/model", "a/b/c"])
def test_a_path_is_never_taken_for_a_hub_id(path):
    assert "no such model directory" in refusal(path)


@pytest.mark.fault("F04")
def test_a_hub_id_offline_says_both(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    text = refusal("nobody/nothing")
    assert "neither a local directory nor a model" in text and "hub" in text


def test_a_directory_without_weights_or_config(directory, tmp_path):
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    assert "no weights (*.safetensors)" in refusal(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert "is a pickle" in refusal(tmp_path)
    assert f"perhaps {directory}" in refusal(directory.parent)


def test_a_file_is_not_a_model(directory):
    assert "a model is a directory" in refusal(directory / "config.json")


def copy_of(directory, target, **changes):
    target.mkdir()
    for file in directory.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_code_of_the_models_own_is_refused(directory, tmp_path):
    path = copy_of(directory, tmp_path / "m", auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    assert "wants to run code of its own" in refusal(path)


def test_weights_missing_from_the_checkpoint_are_refused(directory, tmp_path):
    path = copy_of(directory, tmp_path / "m", num_hidden_layers=3, layer_types=["full_attention"] * 3)
    assert "would be random numbers" in refusal(path)


def test_damaged_or_unknown_files_are_refused(directory, tmp_path):
    path = copy_of(directory, tmp_path / "m")
    (path / "model.safetensors").write_bytes(b"nothing")
    assert "model.safetensors is damaged" in refusal(path)
    (path / "config.json").write_text("{")
    assert "not valid JSON" in refusal(path)
    unheard = copy_of(directory, tmp_path / "n", model_type="unheard_of")
    assert "transformers cannot make sense of config.json" in refusal(unheard)


def test_a_missing_tokenizer_is_refused(tmp_path):
    architectures.build("Qwen3").save_pretrained(tmp_path)
    assert "no usable tokenizer" in refusal(tmp_path)


def test_an_adapter_without_its_base_is_refused(directory, tmp_path):
    Model.load(directory, lora=LoraSpec(r=2)).save(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "/gone/base"}))
    assert "base model '/gone/base' was not found" in refusal(tmp_path)
