"""The public functions: what they take, what they give back, and that it is what the commands print."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import offon
from offon import RunResult
from offon.api import page
from offon.cli.main import main
from offon.reporting import summarise
from tests.reporting import shapes, synthetic

ROOT = Path(__file__).parents[2]
FUNCTIONS = [getattr(offon, name) for name in offon.__all__ if inspect.isfunction(getattr(offon, name))]
RESULTS = [getattr(offon, name) for name in offon.__all__ if inspect.isclass(getattr(offon, name))]


@pytest.fixture
def replaced(monkeypatch):
    """Replace what a function calls: replaced("measure.compare", compare_models=function)."""

    def replace(module: str, **functions):
        monkeypatch.setitem(sys.modules, f"offon.{module}", SimpleNamespace(**functions))

    return replace


# ---- what they take


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_parameters_have_names_and_types_and_are_explained(function):
    signature = inspect.signature(function)
    assert signature.return_annotation != inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY), "no *args, no **options"
        assert parameter.annotation not in (parameter.empty, "Any"), parameter
        explained = parameter.name in ("seed", "progress") or parameter.name in function.__doc__
        assert explained, f"{function.__name__} does not say what {parameter.name} is"


def test_every_parameter_reaches_what_computes_and_defaults_are_the_same():
    from offon.diagnosis.run import diagnose_model
    from offon.measure.compare import compare_models
    from offon.pipeline.attribution import attribute

    computed = {offon.compare: compare_models, offon.diagnose: diagnose_model, offon.attribute: attribute}
    for function, inner in computed.items():
        public, private = (inspect.signature(one).parameters for one in (function, inner))
        assert list(public) == [name for name in private if name not in ("command", "engine")], function.__name__
        for name, parameter in public.items():
            if name not in ("progress", "rule"):
                assert parameter.default == private[name].default, name


def test_what_is_given_is_handed_over_and_no_other(replaced, tmp_path):
    seen = {}

    def compute(*given, **options):
        seen.update(options, given=given)
        return shapes.comparison() | {"role": {"name": "expansion"}, "same_weights": False}

    replaced("measure.compare", compare_models=compute)
    shown = []
    result = offon.compare("a", Path("b"), "gym:lcm", samples=9, prompt="x", progress=shown.append)
    assert seen["given"] == ("a", "b", "gym:lcm") and (seen["samples"], seen["prompt"], seen["k"]) == (9, "x", 32)
    assert seen["progress"] == shown.append and result.role == "expansion"
    with pytest.raises(TypeError):
        offon.compare("a", "b", "gym:lcm", sample=9)


# ---- what they give back


@pytest.mark.parametrize("cls", RESULTS, ids=lambda cls: cls.__name__)
def test_results_are_frozen(cls):
    assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen


def stub_compare(**options):
    return shapes.comparison() | {"role": {"name": "expansion"}, "same_weights": False, "x": float("nan")}


def share(value):
    return {"estimate": value, "low": value - 0.1, "high": value + 0.1}


ATTRIBUTED = {
    "result": "rl",
    "stages": ["sft", "rl"],
    "seeds": 2,
    "total": {"sums": share(0.5)},
    "shapley": {"sums": {"sft": share(0.4), "rl": share(0.1)}},
    "interaction": {},
    "subsets": [],
    "infeasible": [],
    "notes": ["mind the seeds"],
}


def printed(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    return capsys.readouterr().out


def test_json_is_what_the_commands_print(replaced, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "demos.jsonl").write_text("{}\n")
    text = "model: ./base\npipeline:\n  sft: {method: sft, data: demos.jsonl, steps: 3}\n"
    (tmp_path / "tiny.yaml").write_text(text)
    replaced("measure.compare", compare_models=lambda *given, **options: stub_compare())
    replaced("diagnosis.run", diagnose_model=lambda *given, **options: shapes.diagnosis() | {"x": float("inf")})
    replaced("pipeline.attribution", attribute=lambda *given, **options: ATTRIBUTED)
    pairs = [
        (offon.compare("base", "base", "gym:lcm"), ("compare", "base", "base", "--task", "gym:lcm")),
        (offon.diagnose("base", "gym:lcm"), ("diagnose", "base", "--task", "gym:lcm")),
        (offon.attribute("tiny.yaml", "out"), ("attribute", "tiny.yaml")),
        (offon.methods("grpo"), ("methods", "grpo")),
    ]
    for result, command in pairs:
        assert result.to_json() + "\n" == printed(capsys, *command), command[0]
        assert json.loads(result.to_json()).keys() == result.as_dict().keys()
    listed = [json.loads(one.to_json()) for one in offon.methods()]
    assert listed == json.loads(printed(capsys, "methods")) and offon.methods(None) == offon.methods()


def test_a_comparison_has_its_numbers_as_attributes_that_add_up(replaced):
    replaced("measure.compare", compare_models=lambda *given, **options: stub_compare())
    result, entry = offon.compare("a", "b", "gym:lcm"), stub_compare()
    assert (result.sentence, result.calls, result.k) == (entry["sentence"], entry["calls"], entry["k"])
    assert result.before.estimate == entry["before"]["success"]["estimate"]
    assert result.change.estimate == pytest.approx(result.after.estimate - result.before.estimate)
    soft = result.expansion.estimate + result.reshaping.estimate - result.attrition.estimate + result.diffuse.estimate
    assert soft == pytest.approx(result.change.estimate)
    assert len(result.prompts) == entry["n_prompts"] and str(result.change).count(".") == 3


def test_a_result_is_a_mapping_and_its_copies_are_the_callers_own(replaced):
    replaced("diagnosis.run", diagnose_model=lambda *given, **options: shapes.diagnosis())
    result = offon.diagnose("a", "gym:lcm")
    assert result["sentence"] == result.sentence and "prompts" in result and result.get("nothing") is None
    assert dict(result) == result.as_dict() == shapes.diagnosis() and result == offon.diagnose("a", "gym:lcm")
    result.as_dict()["prompts"].clear()
    assert len(result["prompts"]) == len(result.prompts) == sum(result.calls.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.sentence = "better"
    with pytest.raises(TypeError):
        result.prompts[0]["call"] = "solved"


def test_a_run_is_its_folder_its_models_and_what_its_stages_did(tmp_path, capsys):
    run = synthetic.whole_run(tmp_path / "planted")
    result = offon.report(run, run / "other.html")
    assert Path(result) == result.path == run and result.page.read_text().startswith("<!doctype html>")
    assert os.path.join(result, "report.html") == str(run / "report.html")
    assert result.to_json() + "\n" == printed(capsys, "report", str(run))
    assert result.stages and {stage.stage for stage in result.stages} == {s["name"] for s in result["stages"]}
    for stage in result.stages:
        assert stage.change.estimate == pytest.approx(stage.after.estimate - stage.before.estimate)
        assert sum(stage.calls.values()) > 0


@pytest.mark.parametrize("made", ["interrupted_run", "empty_run"])
def test_a_run_that_stopped_early_has_a_result_with_what_there_is(made, tmp_path):
    run = getattr(synthetic, made)(tmp_path / made)
    result = RunResult.of(run, run / "report.html", summarise(run))
    assert result.state != "done" and len(result.stages) <= len(result["stages"]) + 1
    assert all(isinstance(warning, str) for warning in result.warnings)


# ---- the package


def test_importing_it_imports_nothing_of_others():
    code = "import sys, offon; print({m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names))"
    environment = os.environ | {"PYTHONPATH": str(Path(offon.__file__).parents[1])}
    command = [sys.executable, "-S", "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert eval(shown) <= {"offon", "__main__", "sitecustomize", "__mp_main__"}


def test_the_page_is_generated_from_the_docstrings():
    assert (ROOT / "docs" / "api.md").read_text() == page.page(), "run: python -m offon.api.page docs/api.md"


def test_a_wheel_says_that_it_is_typed(tmp_path):
    """Built as pip would, from a copy without the models and tests."""
    pytest.importorskip("setuptools.build_meta")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("__init__.py", "py.typed", "version.py"):
        (tmp_path / "src/offon").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "src/offon" / name, tmp_path / "src/offon")
    code = f"import setuptools.build_meta as build; build.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
    [wheel] = tmp_path.glob("*.whl")
    assert "offon/py.typed" in zipfile.ZipFile(wheel).namelist()
