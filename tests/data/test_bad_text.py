"""Text that no file can hold, and files that are not what they say: a bad row with its place, never a traceback."""

import json

import pytest

from offon.data import load_demonstrations, load_rankings, load_steps
from offon.data.render import Renderer
from offon.data.rows import read_rows
from offon.errors import ConfigError, DataError, OffonError
from offon.recipe.yaml_reader import parse
from offon.tasks.jsonl import jsonl_task
from tests.data.tokenizing import byte_level

HALF = "\ud800"


@pytest.mark.fault("F17")
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": HALF, "completion": "b"},
        {"prompt": "a", "completion": f"b{HALF}"},
        {"prompt": [{"role": "user", "content": HALF}], "completion": "b"},
        {"prompt": "a", "completion": "b", "tools": [{"arguments": {HALF: 1}}]},
        {"prompt": "a", "completion": "b", HALF: 1},
    ],
)
def test_half_a_character_is_a_bad_row_with_its_line(tmp_path, row):
    good = {"prompt": "a", "completion": "b"}
    (tmp_path / "d.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    with pytest.raises(DataError, match="half of a character") as caught:
        read_rows(tmp_path / "d.jsonl", None, ("prompt", "completion"))
    assert "d.jsonl:2" in str(caught.value)
    str(caught.value).encode()


def test_whole_characters_beyond_the_first_plane_are_text(tmp_path):
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": "\U0001f600"}))  # json writes it as a pair of halves
    [(_, row)] = read_rows(tmp_path / "d.jsonl", None, ("text",))
    assert row["text"] == "\U0001f600"


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.parquet"])
@pytest.mark.parametrize("content", [b"PAR1", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe\x00", b'{"text": 1e999}'])
def test_a_file_that_cannot_be_read_says_so(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / name, None, ("prompt",))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'task: "\\ud800"',
        'task: "a\\0b"',
        '"\\ud800": 1',
        "seed: " + "9" * 5000,
        "a: {<<: 3}",
        "? [a, b]\n: 1",
        "a: " + "[" * 5000,
    ],
)
def test_a_recipe_that_cannot_be_read_says_where(text):
    with pytest.raises(OffonError) as caught:
        parse(text, name="r.yaml")
    assert caught.value.exit_code == ConfigError.exit_code
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("loader", "row"),
    [
        (load_demonstrations, {"instruction": [{"role": "user", "content": ""}], "output": "b"}),
        (load_demonstrations, {"prompt": "a", "completion": "b", "offon": 3}),
        (load_rankings, {"prompt": "a", "completions": 0}),
        (load_steps, {"prompt": "a", "completions": [], "labels": []}),
        (load_steps, {"prompt": "a", "completions": ["b"], "labels": ["c"]}),
        (lambda rows, tokenizer: jsonl_task(rows, heldout=0.0).items("train"), {"prompt": [0], "answer": "b"}),
        (
            lambda rows, tokenizer: jsonl_task(rows, heldout=0.0).items("train"),
            {"prompt": "a", "answer": "b", "views": 1},
        ),
    ],
)
def test_a_column_of_the_wrong_kind_is_a_bad_row(loader, row):
    with pytest.raises(DataError, match="cannot be used"):
        loader([row], byte_level())


def test_a_template_that_fails_is_named():
    with pytest.raises(DataError, match="the chat template refuses it: division by zero"):
        Renderer(byte_level("{{ 1 / 0 }}")).prompt([{"role": "user", "content": "a"}])


def test_an_array_is_not_a_scalar(tmp_path):
    (tmp_path / "d.json").write_text("0")
    with pytest.raises(DataError, match="not an array of objects"):
        read_rows(tmp_path / "d.json", None, ("text",))


@pytest.mark.parametrize("who", [[], {}, 7, 1.5])
def test_a_speaker_that_is_no_word_is_a_bad_row(who):
    with pytest.raises(DataError, match="role"):
        load_demonstrations([{"conversations": [{"from": who, "value": "hello"}]}], byte_level())
