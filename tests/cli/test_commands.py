"""Each command: what it prints where, and the code it ends with."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from offon.behavior.diagnosis.bottleneck import CALLS
from offon.cli.folder import make_way
from offon.cli.main import main
from offon.errors import ConfigError, DataError, NumericsError, StorageError

HEAVY = ("torch", "transformers", "datasets", "pyarrow", "duckdb", "matplotlib")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    (tmp_path / "demos.jsonl").write_text("{}\n")
    path = tmp_path / "tiny.yaml"
    path.write_text("model: ./base\npipeline:\n  sft: {method: sft, data: demos.jsonl, steps: 3}\n")
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def replaced(monkeypatch):
    """Replace a function of the loops: replaced("pipeline.run", run_recipe=function)."""

    def replace(module: str, **functions):
        monkeypatch.setitem(sys.modules, f"offon.{module}", SimpleNamespace(**functions))

    return replace


def offon(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "offon.cli.main", *arguments], capture_output=True, text=True)


# ---- start


def test_help_answers_within_a_second_of_cpu_and_without_torch():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = offon("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert shown.returncode == 0
    for command in (
        "demo",
        "run",
        "check",
        "diagnose",
        "compare",
        "attribute",
        "report",
        "methods",
        "ledger",
        "doctor",
    ):
        assert f"\n  {command} " in shown.stdout
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 1.0


@pytest.mark.parametrize("module", ["offon.cli.main", "offon.recipe", "offon.types", "offon.errors"])
def test_nothing_heavy_is_imported_before_a_command_runs(module):
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.slow
def test_a_check_imports_no_model_class_no_adapters_and_no_statistics():
    """A check opens tokenizers and data: what models, adapters and measurements are computed with takes seconds."""
    heavy = (
        "peft",
        "datasets",
        "matplotlib",
        "scipy.stats",
        "transformers.modeling_utils",
        "transformers.masking_utils",
    )
    code = f"import sys, offon.pipeline.check; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.fault("F01")
@pytest.mark.slow
def test_misspelt_keys_are_found_without_torch_those_of_a_method_too(recipe):
    recipe.write_text("modle: ./base\npipeline:\n  rl: {method: grpo, task: gym:lcm, group_sise: 4, steps: 1}\n")
    code = (
        f"import sys; from offon.cli.main import main; print(main(['check', {str(recipe)!r}]), 'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.split() == ["2", "False"]
    assert "did you mean model?" in ended.stderr and "did you mean group_size?" in ended.stderr


@pytest.mark.parametrize(
    "arguments", [["runn"], ["run"], ["run", "x", "--nope"], ["diagnose", "m", "--task", "t", "--k", "0"]]
)
def test_a_usage_error_ends_with_2_and_says_so_on_stderr(arguments, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "Error" in captured.err and not captured.out


# ---- errors


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError("rows 3, 7"), 3), (NumericsError("loss is nan"), 5), (KeyboardInterrupt(), 130), (KeyError("x"), 1)],
)
def test_an_error_ends_with_its_code_and_a_message_without_a_traceback(recipe, replaced, capsys, error, code):
    def fails(*_, **__):
        raise error

    replaced("pipeline.run", run_recipe=fails)
    assert main(["run", str(recipe), "--quiet"]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and not captured.out
    assert code == 130 or captured.err.count("\n") <= 8


def test_debug_shows_the_traceback_wherever_it_is_written(recipe, replaced, capsys):
    def fails(*_, **__):
        raise KeyError("x")

    replaced("pipeline.run", run_recipe=fails)
    for arguments in (["--debug", "run", str(recipe)], ["run", str(recipe), "--debug"]):
        assert main(arguments) == 1
        assert "Traceback" in capsys.readouterr().err


def test_the_traceback_is_kept_in_the_runs_folder(recipe, replaced, capsys):
    def fails(resolved, output, **_):
        Path(output).mkdir(parents=True)
        raise ZeroDivisionError("by 0")

    replaced("pipeline.run", run_recipe=fails)
    assert main(["run", str(recipe)]) == 1
    message = capsys.readouterr().err
    assert "error[bug]: ZeroDivisionError: by 0" in message and "runs/tiny/error.log" in message
    assert "Traceback" in Path("runs/tiny/error.log").read_text()


@pytest.mark.fault("F01")
def test_a_misspelt_key_on_the_command_line_is_refused_like_one_in_the_file(recipe, capsys):
    assert main(["run", str(recipe), "--set", "sft.stepz=3"]) == 2
    message = capsys.readouterr().err
    assert "where: --set sft.stepz=3 (pipeline.sft)" in message and "did you mean steps?" in message
    assert len(message.splitlines()) <= 8 and not Path("runs").exists()


# ---- run


def test_run_resolves_and_hands_over(recipe, replaced, capsys, monkeypatch):
    seen = {}
    monkeypatch.setattr("offon.reporting.show", lambda run: print("the table"))

    def run_recipe(resolved, output, *, resume, overwrite, wishes, progress, command):
        print("a library's chatter")
        progress({"note": "noted"})
        seen.update(steps=resolved.node("sft").settings.steps, output=output, resume=resume, allow=wishes.allow)

    replaced("pipeline.run", run_recipe=run_recipe)
    assert main(["run", str(recipe), "--set", "sft.steps=7", "--resume", "--allow", "steps", "--allow", "data"]) == 0
    assert seen == {"steps": 7, "output": Path("runs/tiny"), "resume": True, "allow": ("steps", "data")}
    captured = capsys.readouterr()
    assert captured.out == "the table\nreport: runs/tiny/report.html\n"
    assert "sft: sft from" in captured.err and "noted" in captured.err and "chatter" in captured.err


@pytest.mark.fault("F06")
def test_a_folder_with_a_run_is_left_alone_unless_told(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    make_way(run, resume=False, overwrite=False)
    (run / "run.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        make_way(run, resume=False, overwrite=False)
    assert all(choice in caught.value.fix for choice in ("--resume", "--overwrite", "another directory"))
    make_way(run, resume=True, overwrite=False)
    assert (run / "run.json").exists()
    make_way(run, resume=False, overwrite=True)
    assert (run / "run.json").exists(), "it goes once there is something in its place"


def test_overwrite_deletes_nothing_but_runs(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty"):
        make_way(tmp_path, resume=False, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()
    with pytest.raises(ConfigError, match="--resume continues"):
        make_way(tmp_path, resume=True, overwrite=True)


def test_overwrite_leaves_a_living_run_alone(tmp_path):
    import fcntl

    (tmp_path / "run.json").write_text("{}")
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="a run is running here"):
            make_way(tmp_path, resume=False, overwrite=True)
    assert (tmp_path / "run.json").exists()


# ---- results


def test_check_prints_one_json_document_or_the_resolved_recipe_and_the_plan(recipe, replaced, capsys):
    held = {"model": "self", "role": "learner", "when": "always", "parameters": 1_456_000, "size_bytes": 23_296_000}
    nodes = [{"node": "sft", "method": "sft", "batches": "3 steps", "held": [held], "supervised_tokens": 12}]

    def check_recipe(resolved):
        print("a library's chatter")
        return {"recipe": resolved.name, "nodes": nodes, "probes": [{"task": "sums", "heldout": 9}], "notes": ["n"]}

    replaced("pipeline.check", check_recipe=check_recipe)
    assert main(["check", str(recipe), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"] == nodes
    assert main(["check", str(recipe)]) == 0
    shown = capsys.readouterr().out
    assert "learning_rate: 2.0e-05  # row" in shown and "supervised tokens: 12" in shown
    assert "self   learner  always" in shown and "1.5M" in shown and "23.3MB" in shown


def test_diagnose_prints_the_summary_and_the_sentence(tmp_path, replaced, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    seen = {}

    def diagnose_model(model, task, **options):
        seen.update(options, model=model, task=task)
        calls = dict.fromkeys(CALLS, 0)
        row = {"family": "sums", "n": 4, **calls, "solved": 1, "ranking": 2, "missing": 1}
        return {
            "model": "base",
            "summary": [row],
            "prompts": [],
            "sentence": "of 4 prompts: 1 solved",
            "suggestions": [
                {
                    "call": "missing",
                    "prompts": 1,
                    "methods": ["sft"],
                    "reason": "why",
                    "signature": "how",
                    "avoid": "RL",
                }
            ],
            "notes": ["a note"],
            "x": float("nan"),
        }

    replaced("diagnosis.run", diagnose_model=diagnose_model)
    arguments = ["diagnose", "base", "--task", "{gym: chain_sum, max_terms: 2}", "--budget", "8", "--k", "4"]
    arguments += ["--max-tokens", "9", "--teacher", "base"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for part in (
        "ranking",
        "of 4 prompts: 1 solved",
        "1 missing: try sft",
        "sign that it was right: how",
        "note: a note",
    ):
        assert part in shown
    assert "unreachable" not in shown, "calls that no prompt has are left out"
    assert shown.startswith("of 4 prompts: 1 solved\n"), "the diagnosis in a sentence is what a person sees first"
    assert seen["teacher"] == seen["model"]
    assert seen["model"] == str(tmp_path / "base") and seen["task"] == {"gym": "chain_sum", "max_terms": 2}
    assert (seen["budget"], seen["k"], seen["prompts"], seen["max_tokens"]) == (8, 4, 64, 9)
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["x"] is None


def test_diagnose_tells_shares_kinds_controls_the_checker_and_the_cost_with_their_intervals(capsys):
    from offon.cli.pages import diagnosis_page

    def est(value):
        return {"estimate": value, "low": value - 0.02, "high": value + 0.02}

    row = {"family": "sums", "n": 4, "ranking": 4}
    lost = {"call": "fragile", "sub": "lost", "since": "sft", "prompts": 3, "methods": ["replay"]}
    shown = diagnosis_page(
        {"task": "t", "summary": [row], "sentence": "of 4 prompts: 4 reachable"}
        | {"notes": ["a note", "control failed: any prefix helps"]}
        | {"suggestions": [lost | {"reason": "why", "signature": "how", "avoid": "no"}]}
        | {"prevalence": {"ranking": est(0.9), "missing": {"estimate": 0.0, "low": 0.0, "high": 0.001}}}
        | {"plan": "4 prompts x 64 rollouts, about 3 s"}
        | {"verifier": {"sensitivity": est(0.9), "false_positive": est(0.05), "usable": True}}
        | {"cost": {"rollouts": 210, "tokens_generated": 12_300, "verifier_calls": 210, "seconds": 2.0}}
    )
    told = [
        "each call is: ranking 90% [88%, 92%]",
        "3 fragile (lost since sft): try replay",
        "accepts 90.0% (88.0 to 92.0) of right answers and 5.0% (3.0 to 7.0) of wrong ones; the calls allow for both.",
        "control failed: any prefix helps note: a note",
        "Planned: 4 prompts x 64 rollouts, about 3 s. Spent: 210 rollouts · 2.0 s · 12.3k tokens generated",
    ]
    places = [" ".join(shown.split()).find(part) for part in told]
    assert -1 not in places and places == sorted(places)
    assert "missing" not in shown and max(map(len, shown.splitlines())) <= 110


def test_pages_are_written_beside_what_is_printed(tmp_path, replaced, monkeypatch, capsys):
    from tests.reporting import shapes

    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    replaced("diagnosis.run", diagnose_model=lambda model, task, **options: shapes.diagnosis())
    replaced("measure.compare", compare_models=lambda one, other, task, **options: shapes.comparison())
    for command in (["diagnose", "base"], ["compare", "base", "base"]):
        assert main([*command, "--task", "gym:chain_sum", "--json", "--page", "pages/page.html"]) == 0
        told = capsys.readouterr()
        assert json.loads(told.out)["task"] == "testbed" and told.err == "page: pages/page.html\n"
        assert f"offon {command[0]}</title>" in (tmp_path / "pages/page.html").read_text()
    assert main(["diagnose", "base", "--task", "gym:chain_sum", "--page", "pages"]) == 2


def test_diagnose_refuses_before_loading(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    assert main(["diagnose", "./bsae", "--task", "gym:x"]) == 4
    assert "closest" in capsys.readouterr().err


def test_attribute_hands_its_options_over_and_prints_shares_subsets_and_what_was_not_run(recipe, replaced, capsys):
    seen = {}

    def share(value):
        return {"estimate": value, "low": value - 0.1, "high": value + 0.1}

    def attribute(resolved, output, **options):
        options["progress"]({"note": "3 stage trainings"})
        seen.update(options, output=output)
        return {
            "result": "rl", "stages": ["sft", "rl"], "seeds": 2, "total": {"sums": share(0.5)},
            "shapley": {"sums": {"sft": share(0.4), "rl": share(0.1)}},
            "interaction": {"sums": [["sft", "rl", share(-0.2)]]},
            "subsets": [{"stages": [], "success": {"sums": share(0.2)}}],
            "infeasible": [{"stages": ["rl"], "why": "rl reads $sft (teacher)"}], "notes": ["mind the seeds"],
        }  # fmt: skip

    replaced("pipeline.attribution", attribute=attribute)
    options = ["--task", "gym:lcm", "--stages", "sft", "--seeds", "2"]
    assert main(["attribute", str(recipe), *options]) == 0
    assert seen["tasks"] == {"gym:lcm": "gym:lcm"} and (seen["stages"], seen["seeds"]) == (["sft"], 2)
    assert seen["output"] == Path("runs/tiny-attribution")
    captured = capsys.readouterr()
    assert "3 stage trainings" in captured.err and "contributes to rl" in captured.out
    for words in (
        "+40.0 [+30.0, +50.0]",
        "together  +50.0",
        "sft and rl together",
        "sums -20.0",
        "20.0%",
        "not run: rl",
    ):
        assert words in captured.out
    assert main(["attribute", str(recipe), *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"] == "rl"


def test_methods_lists_the_catalogue(capsys):
    assert main(["methods", "--json"]) == 0
    catalogue = json.loads(capsys.readouterr().out)
    keys = {"name", "kind", "family", "usual_provenance", "interface", "usual_role", "paper", "parts"}
    keys |= {"strength", "handoff_risk", "reference"}
    assert all(set(entry) == keys for entry in catalogue)
    assert {"sft", "dpo", "grpo", "raft", "kd", "on_policy_distill", "kl_anchor", "hints"} <= {
        e["name"] for e in catalogue
    }
    assert main(["methods"]) == 0
    shown = capsys.readouterr().out
    assert "usual provenance" in shown and all(f"\n{entry['name']} " in shown for entry in catalogue)
    assert "handoff risk" in shown and catalogue[0]["strength"] in shown


def test_methods_of_a_name_shows_formula_arguments_parts_and_paper(capsys):
    assert main(["methods", "grpo"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "A_i = (R_i - mean_G R)",
        "group_size",
        "rollouts(8 by self) | verify",
        "arXiv:2402.03300",
        "learning_rate",
    ):
        assert part in shown
    assert main(["methods", "grpo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arguments"][0]["name"] == "group_size"
    for name, words in (
        ("tis", "with: [tis]"), ("best_of_n", "makes data or weights"), ("star", "chain of nodes"),
        ("reward_model", "needed"), ("rloo", "null"),
    ):  # fmt: skip
        assert main(["methods", name]) == 0 and words in capsys.readouterr().out
    assert main(["methods", "gropo"]) == 2
    assert "grpo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("grpo", "grpo: {method: grpo, steps: 100}"),
        ("dpo", "dpo: {method: dpo, data: ./pairs.jsonl, steps: 100}"),
        ("kto", "kto: {method: kto, data: ./labels.jsonl, steps: 100}"),
        ("prm", "prm: {method: prm, data: ./steps.jsonl, steps: 100}"),
        ("chord", "chord: {method: chord, data: ./demos.jsonl, steps: 100}"),
        ("gkd", "gkd: {method: gkd, data: ./demos.jsonl, teacher: ./teacher, steps: 100}"),
        ("opd", "opd: {method: opd, teacher: ./teacher, steps: 100}"),
        ("multi_teacher_opd", "{method: multi_teacher_opd, teachers: {a: $one, b: $another}, steps: 100}"),
        ("merge_linear", "merge_linear: {method: merge_linear, models: [$one, $another]}"),
        ("star", "star: {method: star}"),
        ("hints", "with: [hints]"),
        ("ewc", "with: [ewc: {fisher: $earlier}]"),
        ("replay", "with: [replay: {data: ./demos.jsonl}]"),
        ("templates", "with: [templates: {texts: [..., ...]}]"),
        ("reward_weights", "with: [reward_weights: {weights: {a: ..., b: ...}}]"),
    ],
)
def test_methods_of_a_name_shows_how_a_recipe_writes_it(name, written):
    from offon.api.catalogue_entry import in_a_recipe
    from offon.catalogue import registry

    assert written in in_a_recipe(registry.get(name))


def test_ledger_answers_in_a_table_or_json(tmp_path, capsys):
    from offon.runs import RunDirectory

    RunDirectory.create(tmp_path / "run", recipe_text="seed: 0\n").close()
    assert main(["ledger", str(tmp_path / "run"), "select count(*) as n from trajectories", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"n": 0}]
    assert main(["ledger", str(tmp_path / "run"), "select 'a' as x, 2 as y"]) == 0
    assert capsys.readouterr().out == "x  y\n-  -\na  2\n"
    assert main(["ledger", str(tmp_path / "run"), "select * from nowhere"]) == 2
    assert main(["ledger", str(tmp_path / "run"), "select map {'k': 1.5} as m", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"m": {"k": 1.5}}]
    assert main(["ledger", str(tmp_path / "run"), "select sum(x) as s from (values (1), (2)) t(x)", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"s": 3}]
    assert main(["ledger", str(tmp_path / "norun"), "select 1"]) == 2


def test_report_writes_a_page_or_prints_its_numbers(tmp_path, monkeypatch, capsys):
    from offon import reporting

    monkeypatch.setattr(reporting, "write", lambda run, out: out or run / "report.html")
    monkeypatch.setattr(reporting, "summarise", lambda run: {"run": str(run)})
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/report.html\n"
    assert main(["report", str(tmp_path), "--output", "page.html"]) == 0
    assert capsys.readouterr().out == "page.html\n"
    assert main(["report", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": str(tmp_path)}


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from offon.cli.main import main; sys.exit(main(['methods', '--json']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    )
    process.stdout.close()
    message = process.stderr.read().decode()
    assert "Traceback" not in message and "Error" not in message


# ---- doctor


def test_doctor_finds_this_environment_fit(capsys):
    assert main(["doctor", "--json"]) == 0
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert {"python", "torch", "transformers", "device", "disk", "browser", "reasoning-gym"} <= set(findings)
    assert findings["packed attention"]["state"] == "ok"


def test_doctor_names_what_is_broken(monkeypatch, capsys):
    from offon.cli import doctor

    monkeypatch.setattr(doctor, "_version", lambda package: "1.0" if package == "torch" else "999.0")
    monkeypatch.setattr(doctor, "_attention", lambda: iter(()))
    assert main(["doctor"]) == 2
    captured = capsys.readouterr()
    assert "broken: torch" in captured.err and "1.0 (>=2.11)" in captured.out
