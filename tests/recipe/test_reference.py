"""docs/recipe.md says what the code says: every key, every default, every exit code; and its example resolves."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from offon import errors
from offon.behavior.stage.gates import METRICS
from offon.recipe import parse, resolve
from offon.recipe.fields import (
    RECIPE,
    Gate,
    Limit,
    Lora,
    MakeSettings,
    NodeSettings,
    Probe,
    Settings,
    defaults_of,
    keys_of,
)
from offon.tasks.gym import gym_task
from offon.tasks.jsonl import jsonl_task
from offon.tasks.python import python_task
from offon.tasks.verifiers import VERIFIERS
from offon.testbed import TestbedTask

PAGE = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (.*?) \|", re.MULTILINE)
SECTIONS = {
    "Keys of every method": Settings,
    "Training nodes": NodeSettings,
    "Making nodes": MakeSettings,
    "LoRA": Lora,
    "Probe": Probe,
    "Gates": Gate,
    "Limits": Limit,
}
TASKS = {"gym": gym_task, "jsonl": jsonl_task, "python": python_task, "testbed": TestbedTask}


def table(heading: str) -> dict[str, str]:
    """key -> the cell of its default, of the table under a heading."""
    _, found, rest = re.split(rf"^(#+ {heading})$", PAGE, maxsplit=1, flags=re.MULTILINE)
    return dict(ROW.findall(re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]))


def agree(documented: dict[str, str], defaults: dict) -> None:
    """A key with a default gives it in backticks, as YAML; one without gives words."""
    for key, cell in documented.items():
        written = re.fullmatch(r"`(.*)`", cell)
        assert bool(written) == (key in defaults), f"{key}: {cell}"
        if written:
            default = list(defaults[key]) if isinstance(defaults[key], tuple) else defaults[key]
            assert parse(f"value: {written[1]}").data["value"] == default, f"{key}: {cell}"


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_is_documented_with_its_default(heading):
    documented, section = table(heading), SECTIONS[heading]
    inherited = keys_of(Settings) if issubclass(section, Settings) and section is not Settings else {}
    own = [key for key in keys_of(section) if key not in inherited]
    assert list(documented) == own
    agree(documented, {key: default for key, default in defaults_of(section).items() if key in own})


@pytest.mark.parametrize("kind", TASKS)
def test_every_option_of_a_task_is_documented_with_its_default(kind):
    options = [p for p in inspect.signature(TASKS[kind]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    documented = table(kind)
    assert list(documented) == [option.name for option in options]
    agree(documented, {option.name: option.default for option in options if option.default is not option.empty})


def test_every_section_and_verifier_is_documented():
    assert tuple(table("Top level")) == RECIPE
    assert all(f"\n- `{verifier}`: " in PAGE for verifier in VERIFIERS)


def test_every_metric_of_a_gate_is_documented():
    documented = {name for names in re.findall(r"^\| ([a-z_, ]+) \| (?:models|data|.*models) \|", PAGE, re.MULTILINE)
                  for name in names.split(", ")}  # fmt: skip
    assert documented == {name for names in METRICS.values() for name in names}


def test_the_exit_codes_are_those_of_the_errors():
    documented = dict(re.findall(r"^\| (\d+) \| (\w+)", PAGE, re.MULTILINE))
    kinds = {error.kind: error.exit_code for error in vars(errors).values() if hasattr(error, "exit_code")}
    assert {kind: int(code) for code, kind in documented.items() if kind != "done"} == kinds


def test_the_example_of_an_own_method_resolves(tmp_path):
    for fence, name in (("python", "mine.py"), ("yaml", "mine.yaml")):
        code = re.search(rf"```{fence}\n(# {name}\n.*?)```", PAGE, re.DOTALL)[1]
        (tmp_path / name).write_text(code)
    node = resolve(tmp_path / "mine.yaml").node("rl")
    assert (node.settings.learning_rate, node.arguments) == (1e-4, {"group_size": 16})
    assert [modifier.arguments["coef"] for modifier in node.modifiers] == [0.02]
