"""A run that goes on with other inputs, is replaced, moved or copied: nothing that was finished goes unasked."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from offon.errors import ConfigError, Problems, StorageError
from offon.pipeline import run as pipeline
from offon.pipeline.resume import node_inputs
from offon.pipeline.resume.changes import Wishes
from offon.pipeline.run import run_recipe
from offon.recipe import resolve
from offon.runs import RunDirectory
from offon.runs.directory import LOCK
from tests.faults.inject import project

TWO = """
model: ./base
probe: false
pipeline:
  a: {method: sft, data: ./demos.jsonl, steps: 2, prompts_per_step: 4, save_steps: 1, learning_rate: 1e-3}
  b: {method: sft, init: $a, data: ./demos.jsonl, steps: 2, prompts_per_step: 4, save_steps: 1}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project and its finished run."""
    folder = tmp_path_factory.mktemp("two")
    recipe = project(folder, TWO)
    run_recipe(resolve(recipe), folder / "run")
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the project, run and all, elsewhere."""
    return shutil.copytree(made, tmp_path / "copy")


def again(folder, *overrides, run="run", **options):
    notes = []
    resolved = resolve(folder / "r.yaml", overrides=overrides)
    run_recipe(resolved, folder / run, progress=lambda event: notes.append(event.get("note")), **options)
    return notes


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(folder, node):
    return (folder / "run" / "nodes" / node / "final" / "model.safetensors").read_bytes()


@pytest.mark.fault("W05", "W04", "W10")
def test_a_copied_project_goes_on_and_keeps_everything(folder, monkeypatch):
    monkeypatch.setattr("offon.version.__version__", "99.0")
    monkeypatch.setattr(pipeline, "run_stage", lambda *_: pytest.fail("trained again"))
    monkeypatch.chdir(folder)
    notes = again(folder, resume=True)
    assert "a: already done, kept" in notes and "b: already done, kept" in notes


@pytest.mark.fault("F35", "W11")
@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["a.learning_rate=1e-2"], ["a learning_rate 0.001 0.01", "b init follows a"]),
        (["a.steps=3", "b.prompts_per_step=2"], ["a steps 2 3", "b init follows a", "b prompts_per_step 4 2"]),
        (["b.with=[{kl_anchor: {to: $a, coef: 0.1}}]"], ["b with none kl_anchor", "b kl_anchor.coef none 0.1"]),
    ],
)
def test_a_changed_setting_is_a_table_and_nothing_is_touched(folder, overrides, lines):
    before = files(folder / "run")
    with pytest.raises(ConfigError, match="have changed") as error:
        again(folder, *overrides, resume=True)
    table = [" ".join(line.split()) for line in error.value.what.splitlines()[2:]]
    assert all(line in table for line in lines), table
    assert error.value.exit_code == 2 and "--allow" in error.value.fix and "--restart" in error.value.fix
    assert files(folder / "run") == before


@pytest.mark.fault("F35")
def test_changed_data_is_named_with_what_it_was(folder):
    with (folder / "demos.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "w1", "completion": "w2"}) + "\n")
    with pytest.raises(ConfigError) as error:
        again(folder, resume=True)
    rows = [line.split() for line in error.value.what.splitlines()[2:]]
    assert ["a", "data", "demos.jsonl"] in [row[:3] for row in rows] and ["b", "data"] in [row[:2] for row in rows]


@pytest.mark.fault("F18")
def test_a_changed_chat_template_is_a_changed_model(folder):
    config = folder / "base" / "tokenizer_config.json"
    (folder / "base" / "chat_template.jinja").write_text("{{ messages }}")
    assert config.exists()
    with pytest.raises(ConfigError) as error:
        again(folder, resume=True)
    assert error.value.what.splitlines()[2].split()[:2] == ["a", "init"]


def test_allowed_changes_keep_what_is_finished_and_stay_on_record(folder, monkeypatch):
    before = weights(folder, "a"), weights(folder, "b")
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "run_stage", lambda *_: pytest.fail("trained again"))
        notes = again(folder, "a.learning_rate=1e-2", resume=True, wishes=Wishes(allow=("learning_rate",)))
        assert "a: learning_rate was 0.001 and is 0.01, as allowed" in notes
        again(folder, "a.learning_rate=1e-2", resume=True)  # on record: asked for once
        with pytest.raises(ConfigError, match="a +learning_rate +0.01 +0.001"):
            again(folder, resume=True)
    assert (weights(folder, "a"), weights(folder, "b")) == before
    warnings = RunDirectory.open(folder / "run").status()["warnings"]
    assert "a: learning_rate was 0.001 and is 0.01, as allowed" in warnings


def test_an_interrupted_node_goes_on_with_the_allowed_value(made, tmp_path, monkeypatch):
    folder = shutil.copytree(made, tmp_path / "copy", ignore=shutil.ignore_patterns("run"))
    original = pipeline.run_stage

    def stops(stage, state):
        state._interrupted = lambda: state.state.step == 1
        return original(stage, state)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "run_stage", stops)
        with pytest.raises(Exception, match="interrupted"):
            again(folder)
    with pytest.raises(ConfigError, match="a +learning_rate +0.001 +0.01"):
        again(folder, "a.learning_rate=1e-2", resume=True)
    notes = again(folder, "a.learning_rate=1e-2", resume=True, wishes=Wishes(allow=("a.learning_rate",)))
    assert "a: learning_rate was 0.001 and is 0.01 after step 1, as allowed" in notes
    rates = [line["learning_rate"] for line in RunDirectory.open(folder / "run").metrics() if line["node"] == "a"]
    assert rates[0] <= 1e-3 < rates[1]


def test_a_restarted_node_keeps_the_old_one_under_a_date_and_makes_what_follows_anew(folder):
    before = weights(folder, "a"), weights(folder, "b")
    again(folder, "a.learning_rate=1e-2", resume=True, wishes=Wishes(restart=("a",)))
    assert weights(folder, "a") != before[0] and weights(folder, "b") != before[1]
    replaced = sorted((folder / "run" / "replaced").iterdir())
    assert [path.name.split("-")[0] for path in replaced] == ["a", "b"]
    assert [(path / "final" / "model.safetensors").read_bytes() for path in replaced] == list(before)
    assert len((replaced[0] / "metrics.jsonl").read_text().splitlines()) == 2
    lines = RunDirectory.open(folder / "run").metrics()
    assert [(line["node"], line["step"]) for line in lines] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_a_restarted_last_node_leaves_the_others(folder):
    before = weights(folder, "a")
    again(folder, "b.steps=3", resume=True, wishes=Wishes(restart=("b",)))
    assert weights(folder, "a") == before and len(list((folder / "run" / "replaced").iterdir())) == 1


@pytest.mark.parametrize(
    ("wishes", "resume", "words"),
    [
        (Wishes(allow=("lerning_rate",)), True, "no node has such an input"),
        (Wishes(restart=("c",)), True, "there is no such node"),
        (Wishes(allow=("learning_rate",)), False, "about a run that is there"),
    ],
)
def test_wishes_for_nothing_are_slips_of_the_hand(folder, wishes, resume, words):
    with pytest.raises(ConfigError, match=words):
        again(folder, resume=resume, wishes=wishes)


def test_a_record_without_inputs_is_refused_and_goes_on_when_allowed(folder):
    record = folder / "run" / "nodes" / "a" / "node.json"
    old = json.loads(record.read_text())
    record.write_text(json.dumps({"hash": "of an earlier offon", "state": "done", "kind": "train", **{
        key: old[key] for key in ("seconds", "counters", "group_size")}}))  # fmt: skip
    with pytest.raises(ConfigError, match="a +inputs +not on record"):
        again(folder, resume=True)
    notes = again(folder, resume=True, wishes=Wishes(allow=("inputs", "init")))
    assert "a: already done, kept" in notes


# ---- overwritten


@pytest.mark.fault("W12")
def test_a_refused_row_leaves_the_run_that_would_have_been_replaced(folder):
    before = files(folder / "run")
    (folder / "demos.jsonl").write_text('{"prompt": "w1"}\n')
    with pytest.raises(Problems):
        again(folder, overwrite=True)
    assert files(folder / "run") == before and not list(folder.glob("run.replaced*"))


@pytest.mark.fault("W12")
def test_the_run_that_is_replaced_waits_until_there_is_a_checkpoint(folder, monkeypatch):
    before = files(folder / "run" / "nodes")

    def fails(stage, state):
        raise RuntimeError("before the first step")

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "run_stage", fails)
        for _ in range(2):  # a second failure replaces nothing but the first
            with pytest.raises(RuntimeError):
                again(folder, overwrite=True)
    first, *_ = sorted(folder.glob("run.replaced-*"))
    assert files(first / "nodes") == before
    again(folder, resume=True)
    assert not list(folder.glob("run.replaced-*")) and (folder / "run" / "nodes" / "b" / "final").exists()
    assert RunDirectory.open(folder / "run").info()["replaces"] == []


def test_only_what_was_put_aside_is_ever_deleted(folder):
    (folder / "run.replaced-mine").mkdir()
    again(folder, overwrite=True)
    assert (folder / "run.replaced-mine").exists()


@pytest.mark.fault("F07", "F36")
@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}], ids=str)
def test_a_living_run_is_called_running_with_who_and_since_when(folder, options):
    words = f"a run is running here: pid {os.getpid()} on host .* since 20"
    living = RunDirectory.create(folder / "run", recipe_text="", resume=True)
    with living, pytest.raises(StorageError, match=words):
        again(folder, **options)
    assert (folder / "run" / LOCK).exists()


# ---- what moved between sessions


@pytest.mark.fault("F35")
def test_other_versions_devices_and_threads_are_said_in_one_line(folder, monkeypatch):
    info = folder / "run" / "run.json"
    record = json.loads(info.read_text())
    record["sessions"][-1] |= {"device": "cuda", "threads": 64}
    record["sessions"][-1]["versions"] |= {"torch": "1.0"}
    info.write_text(json.dumps(record))
    (line,) = [note for note in again(folder, resume=True) if note and note.startswith("not as in the session before")]
    assert "torch 1.0 -> " in line and "device cuda -> " in line and "threads 64 -> " in line and "numpy" not in line
    assert not any(note and note.startswith("not as in") for note in again(folder, resume=True))


def test_a_row_whose_numbers_changed_is_asked_about(folder, monkeypatch):
    monkeypatch.setattr(node_inputs, "numbers_of", lambda rows: {"training": 2, **dict.fromkeys(rows, 1)})
    with pytest.raises(ConfigError, match="a +numbers"):
        again(folder, resume=True)
