"""Nodes that make data or weights by a row, and methods that are several nodes: from a recipe to what lies on disk."""

from __future__ import annotations

import json

import pytest

from offon.data import load_demonstrations
from offon.errors import ConfigError, DataError, Interrupted, ModelError, OffonError
from offon.pipeline import make_node
from offon.pipeline import run as pipeline
from offon.pipeline.check import check_recipe
from offon.pipeline.resume.changes import Wishes
from offon.pipeline.run import run_recipe
from offon.recipe import parse, resolve
from offon.runs import ledger
from tests.support import model, tokenizer

pytestmark = pytest.mark.slow

TASK = "task: {jsonl: ./task.jsonl, verifier: exact}\nprobe: false\n"
BEST = (
    TASK
    + """
model: ./base
pipeline:
  best: {method: best_of_n, n: 4, at_least: 1.0, max_tokens: 8, prompts_per_buffer: 7}
  sft: {method: sft, data: $best, steps: 3, learning_rate: 1e-2, prompts_per_step: 4}
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("user")
    model(0).save(root / "base")
    prompts = [f"w{i} w{j}" for i in range(6) for j in range(6)]
    rows = [{"prompt": p, "answer": "w3", "views": {"answer": f"{p} w9"}} for p in prompts]
    (root / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    demos = [{"prompt": p, "completion": answer, "answer": "w3"} for p in prompts[:9] for answer in ("w3 w4", "w5")]
    (root / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in demos))
    (root / "easy.py").write_text(
        "def score(prompts, completions, **columns):\n"
        "    return [float(len(c.split()) % 2 == 1) for c in completions]\n"
    )
    return root


def recipe(folder, text, **overrides):
    return resolve(parse(text, folder=folder), overrides=[f"{k}={v}" for k, v in overrides.items()])


def easy(folder, text):
    """With a checker that calls about half of all answers right."""
    task = f"task: {{python: '{folder}/easy.py:score', data: {folder}/task.jsonl}}\nprobe: false\n"
    return recipe(folder, text.replace(TASK, task))


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    return run_recipe(easy(folder, BEST), tmp_path_factory.mktemp("runs") / "run")


def rows_of(run, node):
    return [json.loads(line) for line in (run / "nodes" / node / "final" / "data.jsonl").read_text().splitlines()]


def test_a_made_row_has_prompt_and_completion_and_says_who_wrote_it(finished):
    rows = rows_of(finished, "best")
    assert rows and {"prompt", "completion", "answer", "offon"} <= set(rows[0])
    for row in rows:
        assert row["offon"]["signals"]["reward"] == 1.0
        assert len(row["offon"]["behavior_logp"]) == len(row["offon"]["tokens"]) and len(row["offon"]["producer"]) == 16
        assert row["offon"]["sampling"]["temperature"] == 1.0
    loaded = load_demonstrations(finished / "nodes" / "best" / "final" / "data.jsonl", tokenizer())
    (member,) = loaded[0].members
    assert member.producer.model == rows[0]["offon"]["producer"] and member.signals == {
        "data:reward": 1.0,
        "data:content": rows[0]["offon"]["signals"]["content"],
    }
    assert member.tokens.tolist() == rows[0]["offon"]["tokens"]


def test_every_sample_of_a_made_data_set_has_one_fate_and_its_reason(finished):
    fates = ledger.query(finished, "select fate, count(*) n from trajectories where node = 'best' group by fate")
    counted = {row["fate"]: row["n"] for row in fates.to_pylist()}
    n_prompts = ledger.query(finished, "select count(distinct draw) n from trajectories where node = 'best'")
    assert sum(counted.values()) == 4 * n_prompts.to_pylist()[0]["n"]
    assert counted["kept"] == len(rows_of(finished, "best"))
    assert {fate.split(":")[0] for fate in counted} == {"kept", "dropped"}
    twice = ledger.query(finished, "select id from trajectories group by id having count(*) > 1")
    assert twice.num_rows == 0


def test_cost_is_counted_and_what_only_a_stop_needs_is_gone(finished):
    record = json.loads((finished / "nodes" / "best" / "node.json").read_text())
    assert record["cost"]["tokens_generated"] > 0 and record["cost"]["verifier_calls"] > 0
    assert not (finished / "nodes" / "best" / "work").exists()
    nodes = {node["name"]: node for node in json.loads((finished / "pipeline.json").read_text())["nodes"]}
    assert nodes["best"]["method"] == "best_of_n" and nodes["best"]["cost"] == record["cost"]
    assert {(e["kind"], e["from"]) for e in nodes["sft"]["inputs"]} == {("init", "base"), ("data", "best")}


def test_running_again_keeps_what_was_made_and_another_argument_makes_it_again(folder, finished, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "MakeRunner", lambda *_, **__: pytest.fail("made again"))
        run_recipe(easy(folder, BEST), finished, resume=True)
        patched.setattr(pipeline, "MakeRunner", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_recipe(
                easy(folder, BEST.replace("n: 4", "n: 5")), finished, resume=True, wishes=Wishes(restart=("best",))
            )
    run_recipe(easy(folder, BEST), finished, resume=True)


def test_stopped_in_the_middle_of_making_it_ends_with_the_same_bytes_and_cost(folder, finished, tmp_path, monkeypatch):
    """Two parts are kept, the third is lost in a crash after it was sampled: nothing but that part is sampled again."""
    parts, original = [], make_node.trajectories.write

    def dies(path, groups, **where):
        if path.parent.name == "work":
            parts.append(path.name)
            if len(parts) == 3:
                raise RuntimeError("power cut")
        return original(path, groups, **where)

    with monkeypatch.context() as patched:
        patched.setattr(make_node.trajectories, "write", dies)
        with pytest.raises(RuntimeError, match="power cut"):
            run_recipe(easy(folder, BEST), tmp_path / "run")
        parts.append("--")
        run_recipe(easy(folder, BEST), tmp_path / "run", resume=True)
    assert parts.count("part-000000.parquet") == 1 and parts.count("part-000002.parquet") == 2
    for name in ("best/final/data.jsonl", "sft/final/model.safetensors"):
        assert (tmp_path / "run" / "nodes" / name).read_bytes() == (finished / "nodes" / name).read_bytes(), name
    costs = [json.loads((r / "nodes/best/node.json").read_text())["cost"] for r in (tmp_path / "run", finished)]
    assert all({**c, "seconds": 0} == {**costs[0], "seconds": 0} for c in costs)


def test_what_was_unscored_and_who_wrote_it_are_remembered_over_a_stop(folder, tmp_path, monkeypatch):
    """All parts are there and no model is loaded again: the words and the writers are those of a run without a stop."""
    reward = folder / "odd.py"
    reward.write_text(
        "def reward(completions, answer, **columns):\n"
        "    pairs = zip(completions, answer)\n"
        "    return [float('nan') if 'w5' in text else float(right in text) for text, right in pairs]\n"
    )
    text = BEST.replace(
        "task: {jsonl: ./task.jsonl, verifier: exact}", f"task: {{python: '{reward}:reward', data: ./task.jsonl}}"
    )
    text = text.replace("prompts_per_buffer: 7", "prompts_per_buffer: 7, unscored: 0.6")
    ends = {}
    for name in ("straight", "stopped"):
        if name == "stopped":
            with monkeypatch.context() as patched:
                patched.setattr(make_node.MakeRunner, "finish", lambda self: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    run_recipe(easy(folder, text), tmp_path / name)
        run_recipe(easy(folder, text), tmp_path / name, resume=name == "stopped")
        record = json.loads((tmp_path / name / "nodes" / "best" / "node.json").read_text())
        warnings = json.loads((tmp_path / name / "status.json").read_text())["warnings"]
        ends[name] = record["producers"], [line for line in warnings if line.startswith("best: unscored")]
    assert ends["straight"] == ends["stopped"] and ends["straight"][0] and ends["straight"][1]


def test_a_signal_stops_between_parts_and_says_what_is_kept(folder, tmp_path, monkeypatch):
    class Asked:
        def __enter__(self):
            return lambda: len(list((tmp_path / "run").glob("nodes/best/work/*.parquet"))) == 2

        def __exit__(self, *_): ...

    monkeypatch.setattr(pipeline, "stopping", Asked)
    with pytest.raises(Interrupted, match="interrupted after part 2") as error:
        run_recipe(easy(folder, BEST), tmp_path / "run")
    assert "--resume" in str(error.value)


def test_check_refuses_to_merge_models_that_are_not_built_alike(folder):
    model(0, hidden=48).save(folder / "wide")
    text = TASK + "pipeline: {soup: {method: merge_linear, models: [./base, ./wide]}}\n"
    with pytest.raises(ModelError, match="different architecture cannot be merged") as error:
        check_recipe(recipe(folder, text))
    assert "48" in error.value.why


def test_check_measures_the_room_of_responses_to_prompts_of_data(folder):
    text = TASK + "model: ./base\npipeline: {fisher: {method: fisher, data: ./demos.jsonl, max_tokens: 100000}}\n"
    with pytest.raises(ConfigError, match="max_tokens 100000 after a prompt of"):
        check_recipe(recipe(folder, text))


def test_to_continue_a_reward_model_is_not_proposed_and_a_merge_starts_from_nothing(folder):
    text = "model: ./base\npipeline:\n  rm: {method: train_reward_model, data: ./demos.jsonl, steps: 1}\n"
    text += "  a: {method: sft, data: ./demos.jsonl, steps: 1}\n"
    text += "  soup: {method: merge_linear, models: [$a, ./base]}\n"
    assert recipe(folder, text).notes == ()
    text += "  b: {method: sft, data: ./demos.jsonl, steps: 1}\n"
    (note,) = recipe(folder, text).notes
    assert note.startswith("b starts from") and note.endswith("to continue a write init: $a")


def test_a_modifier_that_does_not_fit_is_named_with_its_place(folder):
    text = "model: ./base\npipeline:\n  a: {method: sft, data: ./demos.jsonl, steps: 1, with: [kl_anchor, hints]}\n"
    with pytest.raises(ConfigError, match="hints, .* guide rollouts, and this stage samples none") as error:
        recipe(folder, text)
    assert error.value.where == "recipe:3 (pipeline.a.with.1)"


def test_a_template_in_words_the_tokenizer_lacks_is_a_mistake_in_the_data(folder, tmp_path):
    text = (
        TASK
        + "model: ./base\npipeline: {told: {method: rationales, view: none, template: 'é {prompt}', max_tokens: 4}}\n"
    )
    with pytest.raises(DataError, match="the tokenizer cannot express it"):
        run_recipe(recipe(folder, text), tmp_path / "run")


def test_check_says_what_would_be_generated_by_which_model_and_its_bytes(folder):
    entry = check_recipe(easy(folder, BEST))["nodes"][0]
    assert entry["collect"] == "rollouts(4 by self) | verify | distinct | keep_best(1, at_least=1)"
    assert entry["prompts"] > 20
    (held,) = entry["held"]
    assert held["model"] == "self" and held["role"] == "samples" and held["size_bytes"] == 4 * held["parameters"]


@pytest.mark.parametrize(
    "line, what",
    [
        ("{method: best_of_n, steps: 3}", "unknown key 'steps'"),
        ("{method: best_of_n, with: [kl_anchor]}", "unknown key 'with'"),
        ("{method: grape}", "method grape needs data"),
        ("{method: grape, data: ./demos.jsonl, temperature: 0.5}", "temperature has no effect here"),
        ("{method: best_of_n, n: 0}", "n: 0 is not allowed"),
    ],
)
def test_what_a_made_node_cannot_mean_is_refused(folder, line, what):
    with pytest.raises(OffonError, match=what):
        recipe(folder, TASK + f"model: ./base\npipeline:\n  d: {line}\n")


def test_what_was_collected_and_never_handed_over_is_an_error(folder, tmp_path):
    (folder / "lossy.py").write_text(
        "from offon.collect import rollouts\n\n"
        "def row(toolbox, task):\n    toolbox.write(toolbox.collect(rollouts(task, 1))[1:])\n"
    )
    with pytest.raises(DataError, match="have no fate"):
        run_recipe(
            recipe(folder, TASK + "model: ./base\npipeline:\n  d: {method: ./lossy.py:row, max_tokens: 20}\n"),
            tmp_path / "run",
        )


# ---- loops


def test_a_loop_becomes_ordinary_nodes_and_its_name_is_the_last(folder):
    text = (
        TASK
        + "model: ./base\npipeline:\n  s: {method: star, iterations: 2, first_steps: 5, max_tokens: 4, lora: true}\n"
    )
    resolved = recipe(folder, text)
    assert [node.name for node in resolved.nodes] == ["s-1-data", "s-1-model", "s-2-data", "s"]
    base = str(folder / "base")
    assert [node.settings.init for node in resolved.nodes] == [base, base, "$s-1-model", base]
    assert [resolved.node(name).settings.steps for name in ("s-1-model", "s")] == [5, 6]
    assert resolved.node("s-2-data").settings.max_tokens == 4 and resolved.node("s").settings.lora.r == 16
    assert resolve(parse(resolved.dump(), folder=folder)) == resolved and not resolved.notes


def test_rest_samples_once_and_improves_on_rising_thresholds(folder):
    text = TASK + "model: ./base\npipeline:\n  r: {method: rest, grow: 2, thresholds: [0.0, 1.0], steps: 2, n: 2}\n"
    nodes = recipe(folder, text).nodes
    assert [node.name for node in nodes] == [
        "r-1-grow", "r-1-improve-1-kept", "r-1-improve-1-model", "r-1-improve-2-kept", "r-1-improve-2-model",
        "r-2-grow", "r-2-improve-1-kept", "r-2-improve-1-model", "r-2-improve-2-kept", "r",
    ]  # fmt: skip
    inits = {node.name: node.settings.init for node in nodes}
    assert inits["r-1-improve-2-model"] == "$r-1-improve-1-model" == inits["r-1-improve-2-model"]
    assert inits["r-2-grow"] == "$r-1-improve-2-model" and inits["r"] == "$r-2-improve-1-model"
    assert [n.arguments["at_least"] for n in nodes if n.method == "above"] == [0.0, 1.0] * 2


@pytest.mark.parametrize(
    "line, what",
    [
        ("{method: star, iterations: 0}", "iterations: 0 is not allowed"),
        ("{method: star, iteratoins: 2}", "unknown key 'iteratoins'"),
        ("{method: self_distilled_sft}", "method self_distilled_sft needs data"),
        ("{method: star, learning_rate: 7}", "learning_rate: 7 is not allowed"),
    ],
)
def test_mistakes_in_a_loop_are_told_with_its_own_line(folder, line, what):
    with pytest.raises(OffonError, match=what) as error:
        resolve(parse(TASK + f"model: ./base\npipeline:\n  s: {line}\n", name="r.yaml", folder=folder))
    assert "r.yaml:" in str(error.value)


LOOP = (
    TASK
    + """
model: ./base
pipeline:
  em: {method: rest_em, iterations: 2, n: 4, cap: 2, steps: 2, max_tokens: 8, learning_rate: 1e-2, prompts_per_step: 4}
"""
)


def test_a_loop_stopped_in_its_second_iteration_ends_with_the_same_weights(folder, tmp_path, monkeypatch):
    straight = run_recipe(easy(folder, LOOP), tmp_path / "straight")
    original = pipeline.run_stage

    def dies(stage, runtime):
        if runtime.node.name == "em":
            raise RuntimeError("power cut")
        original(stage, runtime)

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(pipeline, "run_stage", dies)
        run_recipe(easy(folder, LOOP), tmp_path / "stopped")
    trained = []
    monkeypatch.setattr(pipeline, "run_stage", lambda s, r: (trained.append(r.node.name), original(s, r)))
    stopped = run_recipe(easy(folder, LOOP), tmp_path / "stopped", resume=True)
    assert trained == ["em"]
    final = "nodes/em/final/model.safetensors"
    assert (straight / final).read_bytes() == (stopped / final).read_bytes()


def test_what_making_cost_is_in_the_reports_total(finished):
    from offon import reporting

    made = json.loads((finished / "nodes" / "best" / "node.json").read_text())["cost"]
    total = reporting.summarise(finished)["cost"]
    assert total["tokens_generated"] == made["tokens_generated"] and total["tokens_trained"] > 0
