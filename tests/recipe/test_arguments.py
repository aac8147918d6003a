"""Models and data among a row's arguments become edges, located as `init` and `data` are, whatever form they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pytest

from offon.catalogue.arguments import ArtefactArg, DataArg, ModelArg, RewardArg, TeacherArg, names_of, visited
from offon.data.rows import read_rows
from offon.errors import DataError, ModelError
from offon.recipe import parse, resolve

from .conftest import FakeInfo, FakeRegistry, FakeStage


def many(
    task,
    *,
    teachers: Mapping[str, TeacherArg] = {},  # noqa: B006
    panel: list[RewardArg] | None = None,
    to: ModelArg | Literal["start"] | None = None,
    old: DataArg = None,
    fisher: ArtefactArg | None = None,
    words: str = "./not-a-model",
):
    return FakeStage(samplers=("self",))


class Registry(FakeRegistry):
    infos = {**FakeRegistry.infos, "many": FakeInfo("many", "stage", many)}


@pytest.fixture
def of(folder):
    (folder / "not-a-model").mkdir()

    def resolved(arguments: str):
        nodes = f"  rl: {{method: grpo, steps: 1}}\n  n: {{method: many, {arguments}}}\n"
        text = f"model: ./base\ntask: gym:x\npipeline:\n{nodes}"
        return resolve(parse(text, name="r.yaml", folder=folder), registry=Registry()).node("n")

    return resolved


@pytest.mark.parametrize(
    "source, located",
    [
        ("$rl", "$rl"),
        ("testbed:student", "testbed:student"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("small", "{folder}/small"),
        ("./small", "{folder}/small"),
    ],
)
def test_every_way_to_name_a_model_is_an_edge_of_the_kind_the_annotation_says(of, folder, source, located):
    node = of(f"steps: 1, to: {source}, panel: [{source}], teachers: {{maths: {source}}}")
    located = located.format(folder=folder)
    assert node.arguments["to"] == located and node.arguments["teachers"] == {"maths": located}
    assert {(e.kind, e.source) for e in node.inputs[1:]} == {(k, located) for k in ("teacher", "reward", "reference")}


def test_data_and_directories_among_the_arguments_are_edges_too(of, folder):
    node = of("steps: 1, old: demos.jsonl, fisher: $rl")
    assert [(e.kind, e.source) for e in node.inputs[1:]] == [
        ("data", str(folder / "demos.jsonl")),
        ("reference", "$rl"),
    ]


def test_a_model_that_is_not_there_is_a_model_error_with_its_line(of):
    with pytest.raises(ModelError, match="local path does not exist") as error:
        of("steps: 1, teachers: {maths: ./bas}")
    assert error.value.where == "r.yaml:5 (pipeline.n.teachers)" and "base" in error.value.fix
    with pytest.raises(DataError, match="local path does not exist"):
        of("steps: 1, old: demo.jsonl")


@pytest.mark.fault("F02")
def test_values_that_are_no_text_say_what_is_allowed(of):
    with pytest.raises(Exception, match="a model: a path, a Hub id, testbed:NAME, or "):
        of("steps: 1, to: 3")


def test_marks_are_found_inside_unions_lists_and_mappings():
    assert names_of(ModelArg | None).edge == "reference" and names_of(str | None) is None
    seen = []
    visited(
        Mapping[str, list[TeacherArg]] | None, {"a": ["x", "y"]}, lambda n, t, place: seen.append((n.edge, t, place))
    )
    assert seen == [("teacher", "x", ("a", 0)), ("teacher", "y", ("a", 1))]
    assert visited(tuple[ModelArg, ...], ("x",), lambda n, t, place: n.what) == ("model",)


def test_a_held_out_file_of_a_task_is_relative_to_the_recipe(folder):
    (folder / "later.jsonl").write_text("{}\n")
    text = "model: ./base\ntask: {jsonl: demos.jsonl, heldout: later.jsonl}\npipeline:\n  n: {method: grpo, steps: 1}\n"
    assert resolve(parse(text, folder=folder), registry=Registry()).task["heldout"] == str(folder / "later.jsonl")


def test_a_make_function_with_further_keyword_arguments_is_told_that_they_are_not_read(folder):
    (folder / "open.py").write_text("def base(directory, *, size: int = 3, **options):\n    pass\n")
    text = "model: ./base\npipeline:\n  n: {make: ./open.py:base, size: 4}\n"
    assert resolve(parse(text, folder=folder), registry=Registry()).node("n").arguments == {"size": 4}
    with pytest.raises(Exception, match="unknown key 'colour'") as error:
        resolve(parse(text.replace("size: 4", "colour: 4"), folder=folder), registry=Registry())
    assert "**kwargs is not read" in error.value.why


def test_a_data_set_of_the_hub_that_cannot_be_had_says_so_at_once(monkeypatch):
    """Offline, the hub's client would ask for 23 seconds."""
    import datasets

    def refuse(name, split):
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match="neither a local file nor a data set"):
        read_rows("org/set", None, ("prompt",))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: [{"prompt": f"{name} {split}"}])
    assert read_rows("org/set", None, ("prompt",))[0][1] == {"prompt": "org/set train"}
