"""YAML is read as YAML 1.2, strictly, and every key and value knows its file and line."""

import math

import pytest
import yaml

from offon.errors import ConfigError, Problems, nearest_path
from offon.recipe.yaml_reader import flow, override, parse, read


def value_of(text: str):
    return parse(f"x: {text}").data["x"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("1E-5", 1e-5), ("1.0e-5", 1e-5), (".5", 0.5), ("5.", 5.0), ("-2", -2), ("010", 10),
        ("0x1f", 31), ("0o17", 15), ("true", True), ("False", False), ("~", None), ("", None), ("null", None),
        (".inf", math.inf), ("-.INF", -math.inf),
    ],
)  # fmt: skip
def test_scalars_mean_what_yaml_1_2_says(text, value):
    read_value = value_of(text)
    assert read_value == value and type(read_value) is type(value)


@pytest.mark.parametrize(
    "text", ["yes", "no", "on", "off", "y", "1:30", "2024-01-01", "1_000", "1e", "'1e-5'", "'true'"]
)
def test_everything_else_is_text(text):
    assert value_of(text) == text.strip("'")


def test_nan_is_read_as_nan():
    assert math.isnan(value_of(".nan"))


def test_a_key_written_twice_is_an_error_with_both_lines():
    with pytest.raises(ConfigError) as caught:
        parse_one("a: 1\nb: {c: 1}\na: 2\n")
    assert caught.value.where == "r.yaml:3" and "lines 1 and 3" in caught.value.why


def test_all_duplicates_are_reported_together():
    with pytest.raises(Problems) as caught:
        parse("a: 1\na: 2\nn: {b: 1, b: 2}\n", name="r.yaml")
    assert [error.where for error in caught.value.errors] == ["r.yaml:2", "r.yaml:3"]


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!own 3"])
def test_tags_are_refused_and_nothing_of_them_runs(tag):
    with pytest.raises(ConfigError, match="tag .* is refused"):
        parse_one(f"x: {tag}")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "nothing"), ("- 1", "a list"), ("text", "single value"), ("a: [1", "not YAML"), ("1: x", "not a name"),
        ("a: 1\n---\nb: 2", "not YAML"), ("a: &a [*a]", "contains itself"),
    ],
)  # fmt: skip
def test_what_is_no_recipe_says_so_with_its_line(text, what):
    with pytest.raises(ConfigError, match=what) as caught:
        parse_one(text)
    assert caught.value.where.startswith("r.yaml")


def parse_one(text: str):
    try:
        return parse(text, name="r.yaml")
    except Problems as problems:
        (error,) = problems.errors
        raise error from None


def test_merges_work_and_a_key_of_its_own_wins():
    data = parse("base: &b {x: 1, y: 2}\nnode:\n  <<: *b\n  y: 3\n").data
    assert data["node"] == {"x": 1, "y": 3}


def test_places_are_file_and_line_and_fall_back_to_the_enclosing_key():
    document = parse("pipeline:\n  rl:\n    with:\n      - {kl_anchor: {coef: 1}}\n", name="r.yaml")
    assert (
        document.place(("pipeline", "rl", "with", 0, "kl_anchor", "coef")) == "r.yaml:4 (pipeline.rl.with.0.kl_anchor)"
    )
    assert document.place(("pipeline", "rl", "steps")) == "r.yaml:2 (pipeline.rl)"
    assert document.place(("nowhere",)) == "r.yaml"


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes("\ufeffa: 1\r\nb: 2\r\n".encode())
    assert read(path).data == {"a": 1, "b": 2}


def test_a_missing_recipe_names_its_neighbour(tmp_path):
    (tmp_path / "recipe.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match="closest: .*recipe.yaml"):
        read(tmp_path / "recipy.yaml")


def test_nearest_path_finds_where_a_path_goes_wrong(tmp_path):
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    assert nearest_path(tmp_path / "modles" / "tiny") == f"closest: {tmp_path / 'models'}"
    assert nearest_path(tmp_path / "models" / "tyni") == f"closest: {tmp_path / 'models' / 'tiny'}"
    assert nearest_path(tmp_path / "models" / "zzzzz") == f"{tmp_path / 'models'} holds tiny"
    assert nearest_path(tmp_path / "models") == ""


def test_override_sets_nested_values_and_leaves_the_document_alone():
    document = parse("seed: 0\npipeline: {rl: {steps: 1, with: [{kl_anchor: {coef: 1}}]}}")
    changed = override(
        document, ["rl.steps=1e1", "pipeline.rl.with.0.kl_anchor.coef=0.5", "probe.k=4", "rl.task={gym: x}"]
    )
    assert changed.data["pipeline"]["rl"] == {
        "steps": 10.0,
        "with": [{"kl_anchor": {"coef": 0.5}}],
        "task": {"gym": "x"},
    }
    assert changed.data["probe"] == {"k": 4}
    assert changed.place(("pipeline", "rl", "steps")) == "--set rl.steps=1e1 (pipeline.rl)"
    assert document.data["pipeline"]["rl"]["steps"] == 1


@pytest.mark.parametrize("assignment", ["steps", "=3", "a..b=1", "rl.with.3.x=1", "rl.steps.x=1", "rl.steps=[1"])
def test_override_refuses_what_it_cannot_set(assignment):
    document = parse("pipeline: {rl: {steps: 1, with: []}}")
    with pytest.raises(Problems) as caught:
        override(document, [assignment])
    assert "--set" in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [1e-5, 1, True, None, "1e-5", "1e5", "true", "yes", "1:30", "~", "", "a: b", [1, "x"], {"a": [1.5, "#"]}, "é\n"],
)
def test_flow_is_read_back_the_same_by_either_yaml(value):
    assert value_of(flow(value)) == value
    assert yaml.safe_load(flow(value)) == value
