"""A function counts by what it does, and by what of the project it reaches."""

from __future__ import annotations

import pytest

from offon.runs.artefacts import task_files
from offon.runs.code import code_hash

SOURCE = '''"""Rewards."""
import json
import helper
from inner.tools import scale as by

LIMIT = 3


def reward(completions, **columns):
    """How long."""
    return [min(len(text), LIMIT) * by(helper.one(text)) for text in completions]


def other(completions):
    return [0.0]
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "__init__.py").write_text("")
    (tmp_path / "inner" / "tools.py").write_text("from . import deep\n\n\ndef scale(x):\n    return deep.FACTOR * x\n")
    (tmp_path / "inner" / "deep.py").write_text("FACTOR = 2\n")
    (tmp_path / "helper.py").write_text("def one(text):\n    return 1\n")
    (tmp_path / "rewards.py").write_text(SOURCE)
    return tmp_path


def hashed(project):
    return code_hash(project / "rewards.py", "reward")


@pytest.mark.fault("W11")
@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.replace('    """How long."""\n', ""),
        lambda s: s.replace('"""Rewards."""', '"""What is rewarded."""'),
        lambda s: s.replace("import json", "import json  # a comment"),
        lambda s: s.replace("return [min(len(text), LIMIT)", "return [min(\n        len(text), LIMIT\n    )"),
        lambda s: s.replace("[0.0]", "[1.0]"),  # a function that this one does not reach
        lambda s: s + "\n\ndef third():\n    return 3\n",
        lambda s: "\n\n\n" + s,
    ],
)
def test_comments_formatting_and_what_is_not_reached_do_not_count(project, change):
    before = hashed(project)
    (project / "rewards.py").write_text(change(SOURCE))
    assert hashed(project) == before


@pytest.mark.fault("W01")
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("rewards.py", "LIMIT = 3", "LIMIT = 4"),
        ("rewards.py", "min(len", "max(len"),
        ("rewards.py", "import scale as by", "import scale as by; by = abs"),
        ("rewards.py", "LIMIT = 3", "LIMIT = 3\nprint(LIMIT)"),  # done while the file is imported
        ("helper.py", "return 1", "return 2"),
        ("inner/tools.py", "* x", "+ x"),
        ("inner/deep.py", "2", "5"),
        ("inner/__init__.py", "", "import os\nos.environ['A'] = 'b'\n"),
    ],
)
def test_whatever_it_reaches_counts(project, file, old, new):
    before = hashed(project)
    (project / file).write_text((project / file).read_text().replace(old, new, 1))
    assert hashed(project) != before


def test_where_the_project_lies_does_not_count(project, tmp_path_factory):
    import shutil

    elsewhere = shutil.copytree(project, tmp_path_factory.mktemp("elsewhere") / "p")
    assert hashed(elsewhere) == hashed(project)


def test_modules_that_import_each_other_end(project):
    (project / "helper.py").write_text("import rewards\n\n\ndef one(text):\n    return rewards.LIMIT\n")
    assert len(hashed(project)) == 16


def test_a_file_that_is_no_python_counts_by_its_bytes(project):
    (project / "rewards.py").write_text("def reward(:\n")
    before = hashed(project)
    (project / "rewards.py").write_text("def reward(:  \n")
    assert hashed(project) != before


def test_a_tasks_function_counts_in_the_same_way(project):
    spec = {"python": f"{project}/rewards.py:reward", "data": "none.jsonl"}
    before = task_files(spec)
    (project / "rewards.py").write_text(SOURCE.replace("[0.0]", "[1.0]"))
    assert task_files(spec) == before
    (project / "helper.py").write_text("def one(text):\n    return 3\n")
    assert task_files(spec) != before
