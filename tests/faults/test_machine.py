"""No memory and no room: the exit, the words, and what is kept."""

from __future__ import annotations

import errno
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from offon import reporting
from offon.errors import DataError, OutOfMemory, StorageError, of_the_machine
from offon.pipeline import run as pipeline
from offon.pipeline.run import run_recipe
from offon.recipe import resolve
from offon.runs import RunDirectory
from offon.train import state as training
from tests.faults.inject import at_call, no_room, project, raising, shell, status

CPU = "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
NO_MEMORY = {
    "the device": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "the CPU's allocator": RuntimeError(CPU),
    "Python": MemoryError(),
    "a process": OSError(errno.ENOMEM, "Cannot allocate memory"),
}


@pytest.fixture
def recipe(tmp_path):
    return resolve(project(tmp_path))


@pytest.mark.fault("F38")
@pytest.mark.parametrize("where", NO_MEMORY)
def test_out_of_memory_in_a_step_is_exit_9_with_two_settings_and_what_is_kept(tmp_path, recipe, monkeypatch, where):
    at_call(monkeypatch, training, "accumulate", 4, raising(NO_MEMORY[where]))
    with pytest.raises(OutOfMemory) as error:
        run_recipe(recipe, tmp_path / "run")
    words, now = str(error.value), status(tmp_path / "run")
    assert error.value.exit_code == now["exit_code"] == 9 and now["state"] == "failed"
    assert "micro_batch_tokens: 8192 (now 16384)" in words and "gradient_checkpointing: true" in words
    assert "sft, step 3 of 6" in words and "checkpoint-2" in words and now["error"].strip() == words.strip()


@pytest.mark.fault("F38")
def test_no_memory_for_the_weights_is_no_fault_of_the_model(tmp_path, recipe, monkeypatch):
    at_call(monkeypatch, AutoModelForCausalLM, "from_pretrained", 1, raising(RuntimeError(CPU)))
    with pytest.raises(OutOfMemory, match="DefaultCPUAllocator"):
        run_recipe(recipe, tmp_path / "run")


@pytest.mark.fault("F09")
def test_where_and_in_what_precision_it_computes_is_one_line_on_the_console(tmp_path, recipe):
    notes = []
    run_recipe(recipe, tmp_path / "run", progress=lambda event: notes.append(event.get("note", "")))
    assert len([note for note in notes if note.startswith("computes in float32 on ")]) == 1


@pytest.mark.fault("F38")
def test_after_it_a_resumed_run_takes_the_settings_named_and_goes_on_where_it_was(tmp_path, recipe, monkeypatch):
    with monkeypatch.context() as patched:
        at_call(patched, training, "accumulate", 4, raising(MemoryError()))
        with pytest.raises(OutOfMemory):
            run_recipe(recipe, tmp_path / "run")
    steps = []
    at_call(monkeypatch, training, "accumulate", 1, lambda: steps.append(1))
    smaller = ["sft.micro_batch_tokens=32", "sft.gradient_checkpointing=true"]
    run_recipe(resolve(tmp_path / "r.yaml", overrides=smaller), tmp_path / "run", resume=True)
    assert len(steps) == 4 and status(tmp_path / "run")["state"] == "done"


FULL = ["*/metrics.jsonl", "*/consumption.jsonl", "*buffer-*.parquet*", "*checkpoint-2*", "*final*"]


@pytest.mark.fault("F32")
@pytest.mark.parametrize("pattern", FULL)
def test_a_full_disk_is_exit_6_by_the_files_name_and_the_run_goes_on_when_there_is_room(
    tmp_path, recipe, monkeypatch, pattern
):
    with monkeypatch.context() as patched:
        no_room(patched, pattern, 1)
        with pytest.raises(StorageError) as error:
            run_recipe(recipe, tmp_path / "run")
    assert error.value.exit_code == 6 and "No space left" in str(error.value) and "--resume" in str(error.value)
    assert pattern.strip("*/-.").split("-")[0].split(".")[0] in str(error.value)
    assert status(tmp_path / "run")["exit_code"] == 6
    run_recipe(recipe, tmp_path / "run", resume=True)
    whole = run_recipe(recipe, tmp_path / "whole")
    for name in ("nodes/sft/final/model.safetensors", "nodes/sft/consumption.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes(), name
    assert [line["step"] for line in RunDirectory.open(tmp_path / "run").metrics()] == [1, 2, 3, 4, 5, 6]


@pytest.mark.fault("W06")
def test_a_run_whose_folder_is_taken_away_is_exit_6(tmp_path, recipe, monkeypatch):
    at_call(monkeypatch, training, "accumulate", 3, lambda: shutil.rmtree(tmp_path / "run", ignore_errors=True))
    with pytest.raises(StorageError) as error:
        run_recipe(recipe, tmp_path / "run")
    assert error.value.exit_code == 6


@pytest.mark.slow
@pytest.mark.fault("F32")
def test_a_limit_on_the_size_of_files_is_a_full_disk_too(tmp_path):
    project(tmp_path)
    ended = shell("ulimit -f 8; OFFON run r.yaml --output run", tmp_path)
    assert ended.returncode == 6 and "could not be written" in ended.stderr, ended.stderr
    assert not list((tmp_path / "run").rglob(".*.writing"))


@pytest.mark.fault("F32")
def test_no_room_for_the_first_file_of_a_run_is_exit_6(tmp_path, recipe, monkeypatch):
    with monkeypatch.context() as patched:
        no_room(patched, "*run.json*")
        with pytest.raises(StorageError, match=r"run.json could not be written"):
            run_recipe(recipe, tmp_path / "run")
    run_recipe(recipe, tmp_path / "run")


@pytest.mark.fault("F32")
def test_a_report_that_could_not_be_written_is_no_success(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(pipeline, "run_stage", lambda stage, state: None)
    monkeypatch.setattr(pipeline, "handed_on", lambda *_: {"warnings": []})
    monkeypatch.setattr(pipeline, "contributions", lambda *_: {})
    monkeypatch.setattr(reporting, "write", lambda path: raising(OSError(errno.ENOSPC, "No space left on device"))())
    with pytest.raises(StorageError):
        run_recipe(recipe, tmp_path / "run")
    assert (status(tmp_path / "run")["state"], status(tmp_path / "run")["exit_code"]) == ("failed", 6)


@pytest.mark.fault("F32")
def test_a_full_disk_hides_nothing_that_ended_the_run_before(tmp_path, recipe, monkeypatch):
    """The status cannot be written any more; the exit stays that of the error."""
    monkeypatch.setattr(pipeline, "run_stage", raising_any(MemoryError()))
    monkeypatch.setattr(RunDirectory, "write_status", _status_until_failed(RunDirectory.write_status))
    notes = []
    with pytest.raises(OutOfMemory):
        run_recipe(recipe, tmp_path / "run", progress=lambda event: notes.append(event.get("note", "")))
    assert any("status.json could not be written" in note for note in notes)


def test_what_is_of_the_machine_and_what_is_not():
    assert of_the_machine(ValueError("odd")) is None and of_the_machine(KeyError("out of memory")) is None
    assert of_the_machine(DataError("no space left on device")) is None  # it has been explained already
    foreign = SimpleNamespace(SafetensorError=type("SafetensorError", (Exception,), {}))
    full = foreign.SafetensorError("I/O error: No space left on device (os error 28)")
    assert of_the_machine(full).exit_code == 6
    outer = RuntimeError("worker failed")
    outer.__cause__ = full
    assert of_the_machine(outer).exit_code == 6


def raising_any(error):
    return lambda *_, **__: raising(error)()


def _status_until_failed(original):
    def write(self, state, **where):
        if state == "failed":
            raising(StorageError("status.json could not be written"))()
        return original(self, state, **where)

    return write
