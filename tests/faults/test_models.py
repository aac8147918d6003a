"""Damaged model files, and such as could run code when opened: exit 4 by the file's name, at `check` already."""

from __future__ import annotations

import json
import pickle
import shutil
import struct

import pytest

from offon.errors import ModelError
from offon.models.model import LoraSpec, Model
from offon.pipeline.check import check_recipe
from offon.recipe import resolve
from tests.faults.inject import RECIPE, project


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with ./base and an adapter on it."""
    root = tmp_path_factory.mktemp("models")
    project(root)
    Model.load(root / "base", device="cpu", lora=LoraSpec(r=2)).save(root / "adapter")
    return root


class Payload:
    def __reduce__(self):
        return exec, ("raise SystemExit('the payload ran')",)


def pickled(path):
    path.write_bytes(pickle.dumps(Payload()))


def cut(path, n=40):
    path.write_bytes(path.read_bytes()[:-n])


def replaced(name):
    return lambda folder: (pickled(folder / name), [p.unlink() for p in folder.glob("*.safetensors")])


def header(text: bytes, length: int | None = None):
    return lambda folder: (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(text) if length is None else length) + text
    )


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def index(content):
    def damage(folder):
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        (folder / "model.safetensors.index.json").write_text(content)

    return damage


MISSING_SHARD = json.dumps({"weight_map": {"model.embed_tokens.weight": "model-00002-of-00002.safetensors"}})
BASE = {
    "pickled weights": (replaced("pytorch_model.bin"), "pytorch_model.bin is a pickle"),
    "weights as .pt": (replaced("model.pt"), "model.pt is a pickle"),
    "weights as .pth": (replaced("weights.pth"), "weights.pth is a pickle"),
    "weights as .pkl": (replaced("weights.pkl"), "weights.pkl is a pickle"),
    "cut weights": (lambda folder: cut(folder / "model.safetensors"), "model.safetensors"),
    "empty weights": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors"),
    "a header that is no JSON": (header(b"{not json"), "model.safetensors"),
    "a header that is a list": (header(b"[1, 2]"), "model.safetensors"),
    "a header without shapes": (header(b'{"a": {"dtype": "F32"}}'), "model.safetensors"),
    "a header of 2^60 bytes": (header(b"{}", 1 << 60), "model.safetensors"),
    "a header of odd bytes": (header(b"\xff\xfe\xfd"), "model.safetensors"),
    "half a config": (text("config.json", '{"model_type": "qwen3", '), "config.json"),
    "an empty config": (text("config.json", ""), "config.json"),
    "a config that is a list": (text("config.json", "[]"), "config.json"),
    "a config with words for numbers": (
        text("config.json", '{"model_type": "qwen3", "hidden_size": "many"}'),
        "config",
    ),
    "half a tokenizer": (lambda folder: cut(folder / "tokenizer.json"), "tokenizer.json"),
    "an empty tokenizer": (text("tokenizer.json", ""), "tokenizer.json"),
    "another tokenizer": (text("tokenizer.json", '{"model": 3}'), "tokenizer.json"),
    "half a tokenizer_config": (text("tokenizer_config.json", '{"pad_token": '), "tokenizer_config.json"),
    "half a generation_config": (text("generation_config.json", '{"eos_token_id": '), "generation_config.json"),
    "half an index": (index('{"weight_map": '), "index.json"),
    "a shard that is missing": (index(MISSING_SHARD), "model-00002-of-00002.safetensors"),
}
ADAPTER = {
    "a pickled adapter": (replaced("adapter_model.bin"), "adapter_model.bin is a pickle"),
    "no adapter weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter"),
    "cut adapter weights": (lambda folder: cut(folder / "adapter_model.safetensors"), "adapter_model.safetensors"),
    "half an adapter_config": (text("adapter_config.json", '{"r": 2, '), "adapter_config.json"),
    "an adapter_config without r": (text("adapter_config.json", '{"peft_type": "LORA"}'), "adapter"),
    "an adapter_config that is a list": (text("adapter_config.json", "[]"), "adapter_config.json"),
}


@pytest.mark.fault("F50", "F33")
@pytest.mark.parametrize("name", [*BASE, *ADAPTER])
def test_a_model_that_cannot_be_read_is_refused_by_the_name_of_its_file(made, tmp_path, name):
    kind = "base" if name in BASE else "adapter"
    damage, words = (BASE | ADAPTER)[name]
    shutil.copytree(made / kind, tmp_path / "model")
    damage(tmp_path / "model")
    shutil.copy(made / "demos.jsonl", tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE.replace("./base", "./model"))
    with pytest.raises(ModelError) as error:
        check_recipe(resolve(tmp_path / "r.yaml"))
    assert error.value.exit_code == 4 and words in str(error.value)


@pytest.mark.fault("F50")
@pytest.mark.fault("F50")
def test_a_pickle_beside_whole_weights_is_never_opened(made, tmp_path):
    shutil.copytree(made / "adapter", tmp_path / "model")
    pickled(tmp_path / "model" / "adapter_model.bin")
    pickled(tmp_path / "model" / "training_args.bin")
    assert Model.load(tmp_path / "model", device="cpu").hf is not None
