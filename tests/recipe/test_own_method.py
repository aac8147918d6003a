"""docs/own-method.md runs as it stands: a file outside the package with a method of every kind, named in a recipe."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from offon.cli.main import main
from offon.errors import ConfigError
from offon.recipe import resolve
from offon.runs import ledger

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "own-method.md").read_text()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("mine")
    for fence, name in (("python", "mine.py"), ("yaml", "mine.yaml")):
        (root / name).write_text(re.search(rf"```{fence}\n(# {name}\n.*?)```", PAGE, re.DOTALL)[1])
    return root


def test_the_file_runs_as_it_stands_and_each_kind_leaves_its_traces(files):
    assert main(["check", str(files / "mine.yaml")]) == 0
    assert main(["run", str(files / "mine.yaml"), "--output", str(files / "run")]) == 0
    nodes = {n["name"]: n for n in json.loads((files / "run" / "pipeline.json").read_text())["nodes"]}
    assert {"short", "sft", "rl", "loop-1-data", "loop-1-model", "loop-2-data", "loop"} <= set(nodes)
    assert [nodes[name]["steps"] for name in ("loop-1-model", "loop")] == [2, 3]
    assert ("reference", "sft") in {(e["kind"], e["from"]) for e in nodes["rl"]["inputs"]}
    fates = ledger.query(files / "run", "select distinct fate from trajectories where node = 'short'")
    assert {"kept", "dropped: longer", "dropped: below threshold"} >= set(fates.column("fate").to_pylist())
    lines = [json.loads(line) for line in (files / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("loss/near" in line for line in lines)


@pytest.mark.parametrize("name", ["reinforce", "near", "shortest", "shorter_and_shorter"])
def test_each_has_a_page(files, name, capsys):
    assert main(["methods", f"{files}/mine.py:{name}"]) == 0
    assert name in capsys.readouterr().out


def test_a_kind_in_the_wrong_place_says_so(files):
    text = "model: testbed:base\npipeline:\n  n: {method: ./mine.py:near}\n"
    (files / "wrong.yaml").write_text(text)
    with pytest.raises(ConfigError, match="near is a modifier, not a method"):
        resolve(files / "wrong.yaml")
    (files / "wrong.yaml").write_text(
        text.replace("{method: ./mine.py:near}", "{method: sft, data: a/b, steps: 1, with: [./mine.py:shortest]}")
    )
    with pytest.raises(ConfigError, match="shortest is a make, not a modifier"):
        resolve(files / "wrong.yaml")
