"""A mistake hides no other: a reference to no node, and what the sound nodes read."""

from __future__ import annotations

import pytest

from offon.api.mistakes import resolve_or_all
from offon.cli.main import main
from offon.errors import ConfigError, DataError, ModelError, Problems
from tests.faults.inject import project

RECIPE = """
model: ./base
probe: false
pipeline:
  a: {method: sft, init: $nothing, data: ./demos.jsonl, steps: 1}
  b: {method: sft, data: ./columns.jsonl, steps: 1}
  c: {method: sft, init: ./broken, data: ./demos.jsonl, steps: 1}
  d: {method: sft, init: $a, data: ./columns.jsonl, steps: 1}
  e: {method: sft, init: $c, data: ./demos.jsonl, steps: 1}
"""


@pytest.fixture
def recipe(tmp_path):
    path = project(tmp_path, RECIPE)
    (tmp_path / "columns.jsonl").write_text('{"question": "w1", "answer": "w2"}\n' * 4)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    return path


@pytest.mark.fault("F08")
def test_a_reference_to_no_node_hides_neither_columns_nor_models(recipe):
    with pytest.raises(Problems) as problems:
        resolve_or_all(recipe)
    first, *rest = problems.value.errors
    assert isinstance(first, ConfigError) and first.what == "$nothing refers to no node"
    assert {type(error) for error in rest} == {DataError, ModelError} and problems.value.exit_code == 2
    assert "'completion'" in str(problems.value) or "columns" in str(problems.value)


@pytest.mark.fault("F08")
def test_check_prints_all_of_them(recipe, capsys, monkeypatch):
    monkeypatch.chdir(recipe.parent)
    assert main(["check", "r.yaml"]) == 2
    words = capsys.readouterr().err
    assert "$nothing refers to no node" in words and "columns.jsonl" in words and "config.json is damaged" in words


def test_other_mistakes_are_said_without_looking_at_any_file(recipe, monkeypatch):
    recipe.write_text(RECIPE.replace("$nothing", "./base").replace("steps: 1", "stepz: 1"))
    monkeypatch.setattr("offon.api.mistakes._mistakes", lambda _: pytest.fail("it read data"))
    with pytest.raises(Problems):
        resolve_or_all(recipe)
