"""A recipe of Python objects: a model with its tokenizer, data, functions; run, and resumed with the same or others."""

from __future__ import annotations

import json

import datasets
import pytest
import torch
from safetensors.torch import load_file

import offon
from offon.api import Estimate
from offon.api.handed import handed_to_a_call
from offon.catalogue import registry
from offon.data.rows import read_rows
from offon.errors import ConfigError, DataError, ModelError, OffonError, Problems
from offon.objects import is_held
from offon.recipe import read, resolve
from offon.recipe.record import objects_in, refuse_other_objects
from offon.tasks import open_task
from tests.api import rewards
from tests.api.rewards import wanted
from tests.support import ParityTask, qwen3, tokenizer

pytestmark = pytest.mark.slow

PROMPTS = [f"w{i} w{j}" for i in range(6) for j in range(6)]
DEMOS = [{"prompt": prompt, "completion": " w3 w4"} for prompt in PROMPTS[:16]]
ASKED = [{"prompt": prompt, "wanted": "w3"} for prompt in PROMPTS]


def silent(event):
    """Nobody watches."""


def recipe(model, demos, function, asked):
    return {
        "model": model,
        "task": {"python": function, "data": asked},
        "probe": {"prompts": 2, "samples": 8, "k": 2, "max_tokens": 3},
        "pipeline": {
            "sft": {"method": "sft", "data": demos, "steps": 2, "learning_rate": 1e-2, "prompts_per_step": 4},
            "rl": {
                "method": "grpo",
                "init": "$sft",
                "group_size": 4,
                "steps": 1,
                "max_tokens": 3,
                "learning_rate": 1e-2,
                "prompts_per_step": 4,
            },
        },
    }


def pair(seed=0):
    return qwen3(seed), tokenizer()


def rows(values):
    return datasets.Dataset.from_list(values)


@pytest.fixture(scope="module")
def objects():
    """The recipe with an object wherever one may stand."""
    return recipe(pair(), rows(DEMOS), wanted, rows(ASKED))


@pytest.fixture(scope="module")
def finished(objects, tmp_path_factory):
    return offon.run(objects, tmp_path_factory.mktemp("objects") / "run", progress=silent)


@pytest.fixture(scope="module")
def from_files(tmp_path_factory):
    """The same from files: the model saved, rows in JSONL, the function in a file."""
    root = tmp_path_factory.mktemp("files")
    for part in pair():
        part.save_pretrained(root / "base")
    for name, values in (("demos", DEMOS), ("asked", ASKED)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in values))
    places = (str(root / "base"), str(root / "demos.jsonl"), f"{rewards.__file__}:wanted", str(root / "asked.jsonl"))
    return offon.run({**recipe(*places), "probe": False}, root / "run", progress=silent)  # measuring changes no weight


# ---- a run from objects


def test_a_run_from_objects_makes_the_models_of_the_run_from_files_bit_for_bit(finished, from_files):
    assert finished.state == from_files.state == "done" and set(finished.models) == {"sft", "rl"}
    for node, directory in finished.models.items():
        one, other = (load_file(path / "model.safetensors") for path in (directory, from_files.models[node]))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one), node


def test_objects_are_not_touched(objects, finished):
    model, words = objects["model"]
    fresh = qwen3(0).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in model.state_dict().items())
    assert model.config._attn_implementation == qwen3(0).config._attn_implementation and words("w1").input_ids == [3]


def test_the_record_names_objects_by_their_content_and_nothing_of_them_stays_in_memory(finished):
    recorded = dict(objects_in(read(finished.path / "recipe.yaml").data))
    kinds = {name.split("-")[0] for name in recorded.values()}
    assert kinds == {"object:Qwen3ForCausalLM", "object:Dataset", "object:wanted"}
    assert recorded[("model",)] == recorded[("pipeline", "sft", "init")]
    assert recorded[("task", "data")] != recorded[("pipeline", "sft", "data")]
    assert not any(map(is_held, recorded.values()))
    names = {name.removeprefix("object:") for name in recorded.values()}
    kept = {path.name.removesuffix(".json") for path in (finished.path / "inputs").iterdir()}
    assert kept == names


def test_the_record_by_itself_says_that_objects_have_to_be_given_again(finished):
    with pytest.raises(Problems) as caught:
        resolve(finished.path / "recipe.yaml")
    told = [error.what for error in caught.value.errors]
    assert all("is a Python object, which has to be given again" in what for what in told)
    assert len(set(told)) == len(told) == 4, "a model, two data sets and a function, each once"
    assert all("resume=True" in error.fix for error in caught.value.errors)


def test_no_path_of_a_run_enters_a_hash(objects, finished, tmp_path):
    """What is drawn follows from content and seed: the same recipe elsewhere has the same nodes and samples."""
    short = {**objects, "pipeline": {"sft": objects["pipeline"]["sft"]}}
    again = offon.run(short, tmp_path / "elsewhere", progress=silent)
    assert again["stages"][0]["results"] == finished["stages"][0]["results"]


# ---- resumed


def test_the_same_objects_again_continue_a_run_and_repeat_nothing(finished):
    notes: list[str] = []
    again = recipe(pair(), rows(DEMOS), wanted, rows(ASKED))  # equal in content, other objects
    made = finished.models["rl"].stat().st_mtime_ns
    offon.run(again, finished.path, resume=True, progress=lambda event: notes.append(event.get("note", "")))
    assert {"sft: already done, kept", "rl: already done, kept"} <= set(notes)
    assert finished.models["rl"].stat().st_mtime_ns == made


def other_function(prompts, completions, **columns):
    return [0.0 for _ in completions]


@pytest.mark.parametrize(
    ("changed", "where", "differs"),
    [
        ({"model": pair(1)}, "model", ("weights", "the same tokenizer and configuration")),
        ({"demos": rows(DEMOS[:15])}, "pipeline.sft.data", ("rows 16 then, 15 now", "content")),
        ({"function": other_function}, "task.python", ("code",)),
    ],
)
def test_other_objects_are_refused_with_what_differs(finished, changed, where, differs):
    before = sorted(finished.path.rglob("*"))
    given = {"model": pair(), "demos": rows(DEMOS), "function": wanted, "asked": rows(ASKED), **changed}
    with pytest.raises(OffonError) as caught:
        offon.run(recipe(**given), finished.path, resume=True, progress=silent)
    assert caught.value.what == f"{where}: another object is given than the run was made from"
    assert all(words in caught.value.why for words in differs)
    assert sorted(finished.path.rglob("*")) == before, "nothing of what was refused stays"


def test_a_path_where_an_object_was_is_refused(finished, tmp_path):
    for part in pair():
        part.save_pretrained(tmp_path / "base")
    given = recipe(str(tmp_path / "base"), rows(DEMOS), wanted, rows(ASKED))
    with pytest.raises(ConfigError, match="model: object:Qwen3ForCausalLM-.* is missing"):
        offon.run(given, finished.path, resume=True, progress=silent)


def test_a_node_that_is_gone_asks_for_nothing(tmp_path):
    record = "model: object:Qwen-1\npipeline:\n  a: {method: sft, data: object:Dataset-1}\n"
    (tmp_path / "recipe.yaml").write_text(record + "  b: {method: sft, data: object:Dataset-2}\n")
    refuse_other_objects(tmp_path, "model: object:Qwen-1\npipeline: {b: {method: sft, data: object:Dataset-2}}")
    refuse_other_objects(tmp_path, "model: object:Qwen-1\npipeline: {new: {method: sft, data: object:Dataset-3}}")
    with pytest.raises(Problems) as caught:
        refuse_other_objects(tmp_path, "model: ./base\npipeline: {b: {method: sft, data: object:Dataset-3}}")
    assert [error.what for error in caught.value.errors] == [
        "model: object:Qwen-1 is missing",
        "pipeline.b.data: another object is given than the run was made from",
    ]
    assert caught.value.errors[1].why == "object:Dataset-2 then, object:Dataset-3 now"


# ---- functions


def my_sft(data):
    """A row that is a function of this file."""
    return registry.get("sft").function(data)


def unchanged(stage):
    """A modifier that is named by itself."""
    return stage


def repeated(stage, *, times: int = 1):
    """A modifier with an argument, named by the key of its item."""
    return stage if times == 1 else None


def written(directory, source):
    """A make function that is given the rows themselves."""
    lines = [json.dumps(dict(row)) for row in source]
    (directory / "rows.jsonl").write_text("\n".join(lines) + "\n")


def test_rows_modifiers_make_functions_models_in_a_list_and_rows_stand_in_a_recipe(tmp_path):
    given = {
        "model": pair(),
        "probe": False,
        "pipeline": {
            "made": {"make": written, "source": rows(DEMOS)},
            "own": {
                "method": my_sft,
                "data": "$made",
                "steps": 1,
                "learning_rate": 1e-2,
                "with": [unchanged, {repeated: {"times": 1}}],
            },
            "mean": {"method": "merge_linear", "models": [pair(0), pair(0)]},
            "sft": {"method": "sft", "data": DEMOS, "init": "$mean", "steps": 1, "learning_rate": 1e-2},
        },
    }
    run = offon.run(given, tmp_path / "run", progress=silent)
    one, other = (load_file(run.models[node] / "model.safetensors") for node in ("own", "sft"))
    assert all(torch.equal(one[name], other[name]) for name in one), "one row, the same data by three ways"
    recorded = dict(objects_in(read(run.path / "recipe.yaml").data))
    assert recorded[("pipeline", "own", "method")].startswith("object:my_sft-")
    assert recorded[("pipeline", "made", "make")].startswith("object:written-")
    assert {name.split("-")[0] for where, name in recorded.items() if "with" in where} == {
        "object:unchanged",
        "object:repeated",
    }


def test_a_reward_that_fails_leaves_its_own_response_unscored():
    """As one in a file does; it runs in this process, with what it closes over."""
    sizes = []

    def reward(prompts, completions, **columns):
        if any("w1" in text for text in completions):
            raise ValueError("w1\nis bad")
        sizes.append(len(completions))
        return [float(len(text)) for text in completions]

    with handed_to_a_call() as handed:
        task = open_task(handed.named({"python": reward, "data": ASKED, "heldout": 0.5}))
        item = task.items("train")[0]
        verdicts = task.verify([(item, "w3"), (item, "w1"), (item, "w4 w5")])
    assert [verdict.score for verdict in verdicts] == [2.0, None, 5.0]
    assert verdicts[1].reason == "ValueError: w1 is bad" and sizes == [1, 1]


# ---- measurements


def test_objects_are_compared_and_diagnosed_under_their_names():
    options = {"prompts": 3, "k": 2, "max_tokens": 4}
    one, other = pair(), pair(1)
    compared = offon.compare(one, other, ParityTask(), samples=6, **options)
    assert compared["before_model"].startswith("object:Qwen3ForCausalLM-") and not compared.same_weights
    assert compared["before_model"] != compared["after_model"]
    again = offon.compare(one, (qwen3(0), one[1]), ParityTask(), samples=6, **options)
    assert again.same_weights and not again.sampled and again.before is None and again.role == "no change"
    assert again.change == again.reshaping == Estimate(0.0, 0.0, 0.0)
    assert offon.compare(one, (qwen3(0), one[1]), ParityTask(), samples=6, null=True, **options).sampled
    task = {"jsonl": rows([{"prompt": prompt, "answer": "w3"} for prompt in PROMPTS])}
    diagnosed = offon.diagnose(one, task, teacher=other, budget=8, **options)
    assert diagnosed.model.startswith("object:Qwen3ForCausalLM-") and sum(diagnosed.calls.values()) == 3


# ---- refused


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (lambda: {"model": qwen3(0)}, ModelError, "model is a Qwen3ForCausalLM without its tokenizer"),
        (lambda: {"model": tokenizer()}, ModelError, "without its model"),
        (lambda: {"model": (qwen3(0), "gpt2")}, ModelError, "model is a Qwen3ForCausalLM, str"),
        (lambda: {"model": (torch.nn.Linear(2, 2), tokenizer())}, ModelError, "model is a Linear"),
        (lambda: {"task": {"jsonl": datasets.DatasetDict(train=rows(DEMOS))}}, DataError, "holds the splits train"),
        (lambda: {"data": [1, 2].__iter__()}, DataError, "row 0 is a int"),
        (lambda: {"data": [{"prompt": object()}]}, DataError, "row 0 cannot be told from others"),
        (lambda: {"pipeline": {"a": {"method": ParityTask}}}, ConfigError, "pipeline.a.method is a type"),
    ],
)
def test_what_cannot_stand_in_a_recipe_is_refused_with_its_place(given, kind, words, tmp_path):
    with pytest.raises(kind, match=words) as caught:
        offon.run(given(), tmp_path / "run", progress=silent)
    assert caught.value.fix or caught.value.why
    assert not (tmp_path / "run").exists()


def test_an_adapter_in_memory_is_refused_with_what_to_do(tmp_path):
    from offon.models.loading import LoraSpec, add_lora

    with pytest.raises(ModelError, match="PeftModel") as caught:
        offon.run({"model": (add_lora(qwen3(0), LoraSpec()), tokenizer())}, tmp_path / "run", progress=silent)
    assert "merge_and_unload" in caught.value.fix


def test_a_model_that_transformers_does_not_save_says_why(tmp_path):
    model = qwen3(0)
    model.generation_config.num_return_sequences = 3  # of greedy decoding, which has one
    with pytest.raises(ModelError, match="cannot be saved") as caught:
        offon.run({"model": (model, tokenizer())}, tmp_path / "run", progress=silent)
    assert "num_return_sequences" in caught.value.why and not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run_is_left_as_it_is(objects, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty"):
        offon.run(objects, tmp_path, progress=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_recipe_with_a_mistake_leaves_no_copy_of_a_model(objects, tmp_path):
    with pytest.raises(OffonError, match="stepz"):
        offon.run({**objects, "pipeline": {"sft": {"method": "sft", "stepz": 3}}}, tmp_path / "run", progress=silent)
    assert not (tmp_path / "run").exists()


def test_rows_of_an_object_that_was_not_given_are_no_file_of_that_name():
    with pytest.raises(ConfigError, match="has to be given again"):
        read_rows("object:Dataset-0123456789abcdef", None, ("prompt",))
