"""Rows: every source gives the same ones, and every mistake in them is named with its place, all at once."""

import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from offon.data.rows import read_rows
from offon.errors import DataError

ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d\u2028e"}]
COLUMNS = ("prompt", "completion")


def lines(*texts: str) -> bytes:
    return "\n".join(texts).encode()


def values(source, **kwargs):
    return [row for _, row in read_rows(source, kwargs.get("columns"), COLUMNS)]


def test_all_sources_give_the_same_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(*map(json.dumps, ROWS)))
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for source in (
        tmp_path / "a.jsonl",
        str(tmp_path / "a.json"),
        tmp_path / "a.parquet",
        datasets.Dataset.from_list(ROWS),
    ):
        assert values(source) == ROWS


def test_byte_order_mark_crlf_blank_lines_and_unicode_line_separators_are_no_errors(tmp_path):
    path = tmp_path / "a.jsonl"
    raw = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([raw[0], "", raw[1], ""]).encode())
    assert values(path) == ROWS
    assert [where for where, _ in read_rows(path, None, COLUMNS)] == ["a.jsonl:1", "a.jsonl:3"]


def test_a_broken_line_is_named_by_file_and_line_with_its_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines('{"prompt": "a", "completion": "b"}', '{"prompt": "a", "compl', "[1]"))
    with pytest.raises(DataError) as caught:
        values(path)
    assert caught.value.exit_code == 3
    assert "2 of 3 rows" in str(caught.value)
    assert "a.jsonl:2: not JSON" in str(caught.value) and '{"prompt": "a", "compl' in str(caught.value)
    assert "a.jsonl:3: not an object but a list" in str(caught.value)


def test_five_bad_rows_are_shown_and_the_rest_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(*["{"] * 9))
    with pytest.raises(DataError, match="a.jsonl:5: .*\n.*and 4 more") as caught:
        values(path)
    assert "a.jsonl:6" not in str(caught.value)


def test_missing_columns_come_with_the_mapping_that_would_do():
    with pytest.raises(DataError) as caught:
        values([{"question": "a", "answer": "b"}])
    assert "columns prompt + completion not found" in str(caught.value)
    assert caught.value.fix == "columns: {prompt: question, completion: answer}"


def test_the_mapping_renames_and_keeps_other_columns():
    row = {"question": "a", "answer": "b", "id": 7}
    assert values([row], columns={"prompt": "question", "completion": "answer"}) == [
        {"prompt": "a", "completion": "b", "id": 7}
    ]
    with pytest.raises(DataError, match="row 0: no column 'quest', which the mapping names"):
        values([row], columns={"prompt": "quest"})


@pytest.mark.parametrize("name", ["none.jsonl", "notes.txt"])
def test_files_that_are_missing_or_of_another_kind_are_refused(tmp_path, name):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="a .jsonl, .json or .parquet file"):
        values(tmp_path / name)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n")
    with pytest.raises(DataError, match="there are no rows"):
        values(tmp_path / "a.jsonl")
