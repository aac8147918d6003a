"""What a node's result depends on is in its hash: files that a task names, rows given in Python, later edits."""

from __future__ import annotations

import hashlib
import os
import time

import datasets

from offon.measure.probe import probe_key
from offon.models import loading
from offon.recipe.fields import Probe
from offon.runs import atomic
from offon.runs.artefacts import content_hash, described, external, task_files
from tests.support import ParityTask


def edit(path, text):
    path.write_text(text)
    os.utime(path, ns=(1, 2 + len(text)))  # some file systems count time in steps longer than this test


def test_an_edited_file_has_another_hash_in_the_same_process(tmp_path):
    edit(tmp_path / "data.jsonl", "a")
    before = content_hash(tmp_path / "data.jsonl")
    edit(tmp_path / "data.jsonl", "bc")
    assert content_hash(tmp_path / "data.jsonl") != before


def test_an_edited_problem_file_is_another_task_and_another_probe(tmp_path):
    problems, function = tmp_path / "problems.jsonl", tmp_path / "reward.py"
    specs = [{"jsonl": str(problems)}, f"jsonl:{problems},verifier=exact", {"python": f"{function}:score"}]
    seen = []
    for text in ("first", "second!"):
        edit(problems, text)
        edit(function, text)
        seen.append([(task_files(spec), probe_key(Probe(), "model", spec, 0)) for spec in specs])
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in zip(*seen, strict=True))


def test_a_project_that_moves_draws_the_same_samples(tmp_path, monkeypatch):
    """Two copies of a task's files, absolute and relative: one probe. Another name of a column is another one."""
    keys = []
    for place in ("here", "there"):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "problems.jsonl").write_text('{"prompt": "1", "answer": "1"}')
        (folder / "reward.py").write_text("def score(): ...")
        monkeypatch.chdir(folder)
        for path in (str(folder) + "/", "./", ""):
            specs = (
                {"jsonl": f"{path}problems.jsonl"},
                f"jsonl:{path}problems.jsonl,verifier=numeric",
                {"python": f"{path}reward.py:score", "data": f"{path}problems.jsonl"},
            )
            keys.append(tuple(probe_key(Probe(), "model", spec, 0) for spec in specs))
    assert len(set(keys)) == 1 and len(set(keys[0])) == 3


def test_a_task_without_files_is_named_by_its_description_alone():
    assert task_files("gym:chain_sum,max_terms=2") == task_files({"testbed": ["rare"]}) == task_files(None) == ()


def test_data_handed_over_in_python_counts_by_its_rows_and_a_task_by_its_name():
    """repr of a `datasets` object says nothing of its rows, repr of an object holds its address."""
    rows = [datasets.Dataset.from_list([{"prompt": "1", "completion": word}]) for word in ("a", "b", "a")]
    assert described(rows[0]) == described(rows[2]) != described(rows[1])
    assert described(ParityTask()) == "ParityTask parity"


def test_a_hub_id_reaches_the_loader_as_it_was_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert loading.locate(external("Qwen/Qwen3-0.6B").path) == "Qwen/Qwen3-0.6B"


def test_a_settled_file_is_read_once_under_any_name_and_a_young_one_every_time(tmp_path, monkeypatch):
    """What was written a moment ago could still change without its time of modification showing it."""
    read, path = [], tmp_path / "model.safetensors"
    once = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: read.append(1) or once(*given))
    edit(path, "weights")
    first = atomic.known_sha256(path)
    path = path.rename(tmp_path / "renamed.safetensors")
    assert atomic.known_sha256(path) == first and len(read) == 1
    edit(path, "heavier weights")
    assert atomic.known_sha256(path) != first and len(read) == 2
    assert atomic.sha256(path) == atomic.known_sha256(path) and len(read) == 3  # asked to read, it does
    ahead = time.time_ns() + 10**9
    os.utime(path, ns=(ahead, ahead))
    assert atomic.known_sha256(path) == atomic.known_sha256(path) and len(read) == 5
