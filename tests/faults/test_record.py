"""After a stop what is missing of a record is named, what is damaged is refused by name, and there is a way on."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest

from offon import reporting
from offon.errors import Interrupted, StorageError
from offon.pipeline import run as pipeline
from offon.pipeline.run import run_recipe
from offon.recipe import resolve
from offon.runs import ledger
from offon.runs.holes import ranges
from offon.train.frozen_scores import FrozenScores
from tests.faults.inject import project, status


def slowly(*cases):
    """More of a kind of which one case is tried always."""
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


RECIPE = """
model: ./base
probe: false
pipeline:
  a: {method: sft, data: ./demos.jsonl, steps: 3, prompts_per_step: 4, save_steps: 1, learning_rate: 1e-3}
  b: {method: sft, init: $a, data: ./demos.jsonl, steps: 5, prompts_per_step: 4, save_steps: 2, learning_rate: 1e-3}
"""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """(recipe, a run that was stopped after step 4 of b, one that was not)"""
    root = tmp_path_factory.mktemp("project")
    recipe = resolve(project(root, RECIPE))

    class AtFour:
        def __enter__(self):
            return lambda: status(root / "run")["node"] == "b" and status(root / "run")["step"] == 4

        def __exit__(self, *_): ...

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "stopping", AtFour)
        with pytest.raises(Interrupted):
            run_recipe(recipe, root / "run")
    run_recipe(recipe, root / "whole")
    return recipe, root / "run", root / "whole"


@pytest.fixture
def resumed(stopped, tmp_path):
    """Damage a copy of the stopped run and resume it: (its path, what was said on the way)."""
    recipe, run, _ = stopped

    def resume(damage):
        copy = tmp_path / "run"
        if not copy.exists():
            shutil.copytree(run, copy)
        damage(copy)
        notes: list[str] = []
        run_recipe(recipe, copy, resume=True, progress=lambda event: notes.append(event.get("note", "")))
        return copy, notes

    return resume


def without(name, drop):
    """A file of lines without those that `drop` names."""

    def damage(run):
        path = run / name
        lines = [line for line in path.read_text().splitlines(keepends=True) if not drop(json.loads(line))]
        path.write_text("".join(lines))

    return damage


def same_weights(run, whole):
    name = "nodes/b/final/model.safetensors"
    return (run / name).read_bytes() == (whole / name).read_bytes()


HOLES = {
    "metrics of the stopped node": (
        without("metrics.jsonl", lambda line: line["node"] == "b" and line["step"] in (1, 2)),
        "metrics.jsonl lacks step 1-2 of b",
    ),
    "metrics of a finished node": (
        without("metrics.jsonl", lambda line: line["node"] == "a" and line["step"] == 2),
        "metrics.jsonl lacks step 2 of a",
    ),
    "all metrics": (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl lacks step 1-4 of b"),
    "consumption": (
        without("nodes/b/consumption.jsonl", lambda line: line["step"] == 3),
        "b/consumption.jsonl lacks 1 of ",
    ),
    "consumption of a finished node": (
        lambda run: (run / "nodes/a/consumption.jsonl").unlink(),
        "a/consumption.jsonl lacks 3 of 3 lines",
    ),
    "a shard": (
        lambda run: (run / "nodes/b/trajectories/buffer-000001.parquet").unlink(),
        "the ledger lacks buffer 1 of b (buffer-000001.parquet, ...)",
    ),
    "all shards of a finished node": (
        lambda run: shutil.rmtree(run / "nodes/a/trajectories"),
        "the ledger lacks buffer 0-2 of a",
    ),
}


@pytest.mark.fault("W07", "F33")
@pytest.mark.parametrize("name", HOLES)
def test_a_hole_is_on_the_console_in_the_status_and_in_the_report_and_the_run_goes_on(resumed, stopped, name):
    damage, words = HOLES[name]
    run, notes = resumed(damage)
    now = status(run)
    assert now["state"] == "done" and same_weights(run, stopped[2])
    assert any(words in note for note in notes) and any(words in warning for warning in now["warnings"])
    assert any(words in warning["text"] for warning in reporting.summarise(run)["warnings"])


def test_without_holes_nothing_is_said_and_the_result_is_the_same(resumed, stopped):
    run, notes = resumed(lambda run: None)
    assert status(run)["warnings"] == [] and same_weights(run, stopped[2])
    assert not any("lacks" in note for note in notes)


@pytest.mark.fault("F33", "W07")
def test_the_newest_shard_is_in_the_checkpoint_too_and_is_written_again(resumed, stopped):
    run, notes = resumed(lambda run: (run / "nodes/b/trajectories/buffer-000003.parquet").unlink())
    assert same_weights(run, stopped[2]) and not any("lacks" in note for note in notes)


def flip(path, at=-200):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


SHARDS = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "a flipped bit": flip,
    "another file": lambda path: path.write_bytes(b"PAR1" + bytes(100) + b"PAR1"),
}


@pytest.mark.fault("F33", "W07")
@pytest.mark.parametrize("node", ["a", "b"])
@pytest.mark.parametrize("how", ["a flipped bit", *slowly("cut", "empty", "another file")])
def test_a_broken_shard_is_exit_6_by_name_before_anything_is_trained_on(resumed, monkeypatch, how, node):
    name = f"nodes/{node}/trajectories/buffer-000001.parquet"
    with monkeypatch.context() as patched:
        patched.setattr(pipeline.TrainState, "update", lambda *_: pytest.fail("it trained on"))
        with pytest.raises(StorageError) as error:
            resumed(lambda run: SHARDS[how](run / name))
    assert error.value.exit_code == 6 and f"buffer-000001.parquet of {node} is damaged" in str(error.value)
    run, _ = resumed(lambda run: (run / name).unlink())  # the command that the message gives
    assert f"rm {run / name}" in error.value.fix and status(run)["state"] == "done"


@pytest.mark.fault("F33")
def test_a_question_to_a_ledger_with_a_broken_shard_is_exit_6_by_name(stopped, tmp_path):
    shutil.copytree(stopped[1], tmp_path / "run")
    (tmp_path / "run/nodes/b/trajectories/buffer-000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(StorageError, match="buffer-000001.parquet is damaged"):
        ledger.query(tmp_path / "run", "select count(*) from trajectories")


@pytest.mark.fault("F33")
@pytest.mark.parametrize("name", ["metrics.jsonl", "nodes/b/consumption.jsonl", "nodes/a/consumption.jsonl"])
@pytest.mark.parametrize("garbage", [b"{half of a li\n", *slowly(b"3\n", b"\xff\xfe\n", b"\n")])
def test_a_damaged_line_is_named_with_the_command_that_goes_on(resumed, name, garbage):
    def damage(run):
        first, *rest = (run / name).read_bytes().splitlines(keepends=True)
        (run / name).write_bytes(first + garbage + b"".join(rest[1:]))

    with pytest.raises(StorageError, match="line 2") as error:
        resumed(damage)
    assert error.value.exit_code == 6 and "sed -i 2d" in error.value.fix

    def as_told(run):
        lines = (run / name).read_bytes().splitlines(keepends=True)
        (run / name).write_bytes(b"".join([*lines[:1], *lines[2:]]))

    run, _ = resumed(as_told)
    assert any("lacks" in warning for warning in status(run)["warnings"])


HALVES = ["run.json", "status.json", "pipeline.json", "path.json", "recipe.yaml", "nodes/a/handoff.json"]


@pytest.mark.fault("F33")
@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("content", ['{"state": "run', *slowly("", "[1, 2")])
def test_a_half_written_file_is_made_anew(resumed, stopped, name, content):
    run, notes = resumed(lambda run: (run / name).write_text(content))
    assert status(run)["state"] == "done" and same_weights(run, stopped[2])
    if name.endswith(".json"):
        json.loads((run / name).read_text())
        assert any(f"{name} held half" in note for note in notes)


@pytest.mark.fault("F33")
@pytest.mark.parametrize("node", ["a", "b"])
def test_a_half_written_record_of_a_node_is_rebuilt_and_its_checkpoints_are_used(resumed, stopped, node):
    run, notes = resumed(lambda run: (run / "nodes" / node / "node.json").write_text('{"hash": "12'))
    assert same_weights(run, stopped[2]) and json.loads((run / "nodes" / node / "node.json").read_text())["hash"]
    assert not any("starts afresh" in note for note in notes)


@pytest.mark.fault("F33")
def test_where_nothing_says_what_a_node_was_made_from_the_command_does(resumed, stopped):
    def damage(run):
        (run / "nodes/b/node.json").write_text("{")
        (run / "pipeline.json").write_text("{")

    with pytest.raises(StorageError, match=r"node.json of b is damaged") as error:
        resumed(damage)
    assert error.value.exit_code == 6
    run, _ = resumed(lambda run: shutil.rmtree(run / "nodes/b"))
    assert f"rm -r {run / 'nodes/b'}" in error.value.fix and same_weights(run, stopped[2])


@pytest.mark.fault("F33", "F50")
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half of a zip", pickle.dumps({"keys": 1})])
def test_damaged_scores_are_exit_6_by_name_and_are_never_unpickled(tmp_path, content):
    path = tmp_path / "0-a-000002.npz"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="0-a-000002.npz are damaged") as error:
        FrozenScores(tmp_path, "a").rewind(2)
    assert f"rm {path}" in error.value.fix


def test_ranges_are_read_easily():
    assert ranges([1, 2, 3, 5, 7, 8]) == "1-3, 5, 7-8" and ranges([]) == ""
