"""Every row can be asked for in a recipe: one is written from its signature, resolved and checked, without weights."""

from __future__ import annotations

import json

import pytest
import yaml

from offon.catalogue import registry
from offon.catalogue.arguments import Names, names_of
from offon.pipeline.check import check_recipe
from offon.recipe import parse, resolve
from offon.testbed import TestbedTask

pytestmark = pytest.mark.slow

ROWS = [info.name for info in registry.catalogue()]
WRITTEN = {  # what an argument that has to be given says, where its annotation does not tell
    "teachers": ["testbed:base"],
    "texts": ["hint {prompt}"],
    "rubric": "shorter is better",
    "separator": 1,
    "top": 4,
    "models": ["testbed:base", "testbed:base"],
}
TOLD = "{prompt} hint {reference}"  # in words of the testbed, which has no others
OF_A_ROW = {  # what a row wants of its task or data, which the testbed does not bring
    "multi_teacher_opd": {"teachers": {"scaffold": "testbed:base"}},
    "context_distill": {"view": "hint"},
    "context_opd": {"view": "hint"},
    "spin": {"max_tokens": 8},
    "spin_pairs": {"max_tokens": 8},
    "reward_weights": {"weights": {"verifier": 1.0}},
    "rationales": {"template": TOLD},
    "star": {"template": TOLD},
    "opsd": {"template": TOLD},
    "sdpo": {"template": "{prompt} hint {sibling}"},
    "rubrics": {"text": "{prompt} hint {rubric}"},
    "ewc": {"fisher": "$importance"},
}
MADE = {  # nodes that others name
    "scorer": {"method": "train_reward_model", "data": "./pairs.jsonl", "steps": 2},
    "importance": {"method": "fisher", "max_tokens": 8},
}
TASKS = {"rubrics": {"jsonl": "./criteria.jsonl", "verifier": "exact"}}  # items with criteria


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data file of each form."""
    return user_files(tmp_path_factory.mktemp("user"))


def user_files(root):
    items = TestbedTask("scaffold").items("train")[:8]
    rows = {
        "demonstrations": lambda i: {"completion": i.reference, "tag": "label"},
        "pairs": lambda i: {"chosen": i.reference, "rejected": "backward 1 2 3 #"},
        "labelled": lambda i: {"completion": i.reference, "label": len(i.id) % 2 == 0},
        "rankings": lambda i: {"completions": [i.reference, "backward 1 2 3 #"]},
        "criteria": lambda i: {"answer": i.reference, "rubric": ["forward", "#"]},
        "steps": lambda i: {"completions": i.reference.split(), "labels": [True] * 5},
    }
    for form, row in rows.items():
        text = "".join(json.dumps({"prompt": item.prompt, **row(item)}) + "\n" for item in items)
        (root / f"{form}.jsonl").write_text(text)
    return root


def written(name: str, form: str | None) -> dict:
    """The node of a row with everything it has to be given."""
    info = registry.get(name)
    node = {"method": name, "steps": 2} if info.kind == "stage" else {"method": name}
    if info.kind != "modifier" and (bool(info.example().samplers) if info.kind == "stage" else "task" in info.inputs):
        node["max_tokens"] = 8
    for key, needed in info.inputs.items():
        if needed and key != "task":
            node[key] = "testbed:base" if key == "teacher" else f"./{form}.jsonl"
    for key, parameter in info.arguments.items():
        if parameter.default is parameter.empty and key != "toolbox":
            node[key] = source(names) if (names := names_of(parameter.annotation)) else WRITTEN.get(key)
    return {**node, **OF_A_ROW.get(name, {})}


def source(names: Names) -> str:
    if names.what == "model":
        return "$scorer" if names.edge == "reward" else "testbed:base"
    return f"./{names.what}.jsonl"


def recipe(name: str, form: str | None) -> str:
    info = registry.get(name)
    if info.kind == "modifier":
        node = {"method": "grpo", "steps": 2, "max_tokens": 8}
        arguments = {k: v for k, v in written(name, form).items() if k != "method"}
        node["with"] = [{name: arguments}] if arguments else [name]
    else:
        node = written(name, form)
    made = {name: keys for name, keys in MADE.items() if f"${name}" in str(node)}
    nodes = {**made, "node": {"init": "testbed:base", **node} if made else node}
    parts = {"model": "testbed:base", "task": TASKS.get(name, "testbed:scaffold"), "probe": False, "pipeline": nodes}
    return yaml.safe_dump(parts, sort_keys=False)


@pytest.mark.parametrize("name", ROWS)
def test_a_recipe_written_from_the_signature_passes_the_check(name, folder):
    info = registry.get(name)
    form = None
    if info.inputs.get("data"):
        form = info.example().reads if info.kind == "stage" else "demonstrations"
    assert check_recipe(resolve(parse(recipe(name, form), folder=folder)))["nodes"]
