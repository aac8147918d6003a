"""What a run will write at least is compared with the room there is, before anything is written."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from offon.errors import StorageError
from offon.pipeline.check import check_recipe
from offon.pipeline.run import run_recipe
from offon.recipe import resolve
from offon.runs.atomic import files_below
from offon.runs.space import in_bytes, stage_bytes
from tests.faults.inject import project, status

SAFETENSORS = "*.safetensors"


@pytest.fixture
def free(monkeypatch):
    def leave(n):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=n))

    return leave


@pytest.mark.fault("F32", "F08")
def test_a_disk_that_is_certainly_too_small_is_exit_6_with_numbers_and_nothing_is_written(tmp_path, free):
    recipe = resolve(project(tmp_path))
    free(1000)
    with pytest.raises(StorageError, match=r"results and checkpoints need .* kB, 1.0 kB are free") as error:
        run_recipe(recipe, tmp_path / "run")
    assert error.value.exit_code == 6 and "save_total_limit" in error.value.fix and not (tmp_path / "run").exists()


@pytest.mark.fault("F32")
def test_a_disk_that_is_nearly_full_is_a_warning(tmp_path, free):
    recipe = resolve(project(tmp_path))
    free(int(1.1 * check_recipe(recipe)["disk_bytes"]))
    run_recipe(recipe, tmp_path / "run")
    assert any("results and checkpoints need" in warning for warning in status(tmp_path / "run")["warnings"])


@pytest.mark.parametrize("more", ["", ", lora: {r: 4}"])
def test_the_estimate_is_what_weights_and_optimizers_take(tmp_path, more):
    """Two checkpoints of the three counted are there at the end; headers and names of tensors come on top."""
    text = (tmp_path, "model: ./base\nprobe: false\npipeline:\n  s: {method: sft, data: ./demos.jsonl, MORE}\n")
    recipe = text[1].replace("MORE", f"steps: 8, prompts_per_step: 4, save_steps: 2{more}")
    resolved = resolve(project(tmp_path, recipe))
    needed = check_recipe(resolved)["disk_bytes"]
    run_recipe(resolved, tmp_path / "run")
    node = tmp_path / "run" / "nodes" / "s"
    final = sum(path.stat().st_size for path in (node / "final").glob(SAFETENSORS))
    newest = sum(path.stat().st_size for path in files_below(node / "checkpoint-6") if path.match(SAFETENSORS))
    assert needed == pytest.approx(final + 3 * newest, rel=0.25)


def test_a_run_that_is_continued_needs_what_is_left(tmp_path, free):
    recipe = resolve(project(tmp_path))
    run_recipe(recipe, tmp_path / "run")
    free(1000)
    run_recipe(recipe, tmp_path / "run", resume=True)


def test_bytes_by_hand():
    assert stage_bytes(10, 10, steps=100, save_steps=50, keep=2) == 40 + 1 * 120
    assert stage_bytes(10, 10, steps=101, save_steps=10, keep=2) == 40 + 3 * 120
    assert stage_bytes(10, 10, steps=101, save_steps=10, keep=None) == 40 + 10 * 120
    assert [in_bytes(n) for n in (812, 1.2e9)] == ["812 B", "1.2 GB"]
