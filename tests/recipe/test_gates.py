"""A gate resolves with everything said, or to its mistakes, before anything loads."""

from __future__ import annotations

import pytest

from offon.errors import OffonError, Problems
from offon.recipe import parse, resolve
from offon.recipe.fields import Limit

RECIPE = """
model: testbed:base
task: testbed:rare
probe: {prompts: 16, samples: 16, k: 8, max_tokens: 8, tasks: {guard: testbed:guard, rare: testbed:rare}}
pipeline:
  demos: {make: ./make.py:demos}
  sft: {method: sft, data: $demos, steps: 12, prompts_per_step: 16}
  small: {method: sft, data: $demos, init: $sft, steps: 12, lora: true}
  best: {method: best_of_n, n: 4, max_tokens: 8}
  soup: {method: merge_linear, models: [$sft, testbed:base]}
  importance: {method: fisher, max_tokens: 8}
  rm: {method: train_reward_model, data: $demos, steps: 2}
  bare: {method: train_reward_model, data: $demos, steps: 2, heldout: 0}
"""


@pytest.fixture
def of(tmp_path):
    (tmp_path / "make.py").write_text("def demos(directory):\n    pass\n")

    def resolved(line: str, *overrides: str, text: str = RECIPE):
        return resolve(parse(f"{text}  ok: {line}\n", name="r.yaml", folder=tmp_path), overrides=overrides)

    return resolved


@pytest.fixture
def mistakes(of):
    def errors(line: str, *overrides: str) -> list[OffonError]:
        with pytest.raises(OffonError) as caught:
            of(line, *overrides)
        return caught.value.errors if isinstance(caught.value, Problems) else [caught.value]

    return errors


def test_a_gate_is_filled_in_with_what_its_candidate_started_from_and_all_probe_tasks(of):
    gate = of("{gate: $small, limits: {success: {min: 0.3}, change: {min: 0, tasks: [rare]}}}").node("ok")
    assert (gate.init, gate.on_fail, gate.judges) == ("$sft", "stop", "policy")
    assert gate.limits["success"] == (Limit(min=0.3, tasks=("guard", "rare")),)
    assert gate.limits["change"] == (Limit(min=0.0, tasks=("rare",)),)
    assert [(edge.kind, edge.source) for edge in gate.inputs] == [("init", "$small"), ("reference", "$sft")]


@pytest.mark.parametrize(
    "line",
    [
        "{gate: $sft, limits: handoff, on_fail: rollback}",
        "{gate: $sft, init: $soup, limits: {retention: [{min: 0.8, tasks: [guard]}, {min: 0.1, max: 2}]}}",
        "{gate: $best, limits: {right: {min: 0.9, at: estimate}, contamination: {max: 0}}, on_fail: warn}",
        "{gate: $rm, limits: {accuracy: {min: 0.7}}}",
        "{gate: testbed:base, limits: {success: {min: 0.1}}}",
    ],
)
def test_what_is_dumped_loads_back_to_the_same_gate(of, line):
    recipe = of(line)
    again = resolve(parse(recipe.dump()))
    assert again == recipe and again.node("ok") == recipe.node("ok")


def test_handoff_means_most_success_kept_protected_tasks_kept_and_something_to_learn_from(of):
    plain = of("{gate: $sft, limits: handoff}").node("ok").limits
    assert plain == {
        "retention": (Limit(min=0.8, tasks=("guard", "rare")),),
        "ers_drop": (Limit(max=0.03, tasks=("guard", "rare")),),
    }
    guarded = of("{gate: $sft, limits: handoff}", "probe.protected=[guard]").node("ok").limits
    assert guarded["attrition"] == (Limit(max=0.05, tasks=("guard",)),)


def test_nodes_wait_for_their_gate_and_the_gate_for_both_its_sides(of):
    text = RECIPE.replace("pipeline:", "pipeline:\n  rl: {method: grpo, init: $ok, steps: 1, max_tokens: 8}")
    names = [node.name for node in of("{gate: $small, init: $soup, limits: {success: {min: 0}}}", text=text).nodes]
    assert names.index("soup") < names.index("ok") and names.index("small") < names.index("ok") < names.index("rl")


def test_chains_of_init_edges_and_adapters_go_through_gates(of):
    recipe = of("{gate: $small, limits: {success: {min: 0}}, on_fail: rollback}")
    assert [source for source, _ in recipe.chain("$ok")] == ["$small", "$sft", "testbed:base"]
    assert recipe.past_gates("$ok") == "$small" and recipe.past_gates("testbed:base") == "testbed:base"
    assert [node.name for node in recipe.adapted("$ok")] == ["small"]


def test_the_note_on_what_to_continue_names_the_gate(of):
    notes = of("{gate: $small, limits: handoff}\n  rl: {method: grpo, steps: 1, max_tokens: 8}").notes
    assert "rl starts from testbed:base; to continue ok write init: $ok" in notes


@pytest.mark.parametrize(
    ("line", "what", "told"),
    [
        ("{gate: $sft}", "gate 'ok' has no limits", "limits: {success: {min: 0.3}}, or limits: handoff"),
        ("{gate: $sfx, limits: handoff}", "$sfx refers to no node", "did you mean $sft?"),
        ("{gate: $sft, limits: {}}", "limits: a mapping of metrics, or handoff", "success"),
        ("{gate: $sft, limits: {sucess: {min: 0}}}", "unknown metric 'sucess'", "did you mean success?"),
        ("{gate: $sft, limits: {success: 0.3}}", "success: 0.3 is not allowed", "a mapping of min, max, tasks, at"),
        ("{gate: $sft, limits: {success: {mn: 0.3}}}", "unknown key 'mn'", "did you mean min?"),
        ("{gate: $sft, limits: {success: {at: estimate}}}", "success has no bound", "{min: ...}"),
        (
            "{gate: $sft, limits: {success: {min: 0, tasks: [gard]}}}",
            "unknown probe task 'gard'",
            "did you mean guard?",
        ),
        ("{gate: $sft, limits: {accuracy: {min: 0}}}", "accuracy cannot be measured of $sft", "a metric of a reward"),
        ("{gate: $best, limits: {success: {min: 0}}}", "success cannot be measured of $best", "this is data"),
        ("{gate: $rm, limits: {first_error: {min: 0}}}", "first_error cannot be measured of $rm", "a process model"),
        ("{gate: $bare, limits: {brier: {max: 1}}}", "nothing is held out to measure $bare on", "heldout: 0.1 in bare"),
        ("{gate: $best, limits: {rows: {min: 3, tasks: [guard]}}}", "rows has no tasks", "take tasks out"),
        ("{gate: $best, limits: {rows: {min: 3}}, on_fail: rollback}", "gate 'ok' has nothing to roll back to", "init"),
        ("{gate: $best, init: $sft, limits: {rows: {min: 3}}}", "$best is data, $sft is a policy", "place"),
        ("{gate: $soup, limits: {retention: {min: 0}}}", "retention is a comparison", "init: what to compare with"),
        ("{gate: $importance, limits: {success: {min: 0}}}", "$importance is no policy", "nothing is measured"),
        (
            "{gate: $demos, limits: {success: {min: 0}, rows: {min: 2}}}",
            "metrics of a policy and of data in one gate",
            "",
        ),
        ("{gate: $sft, limits: handoff, stop: true}", "unknown key 'stop'", "ok has gate, init, limits, on_fail"),
        ("{gate: $sft, limits: handoff, on_fail: halt}", "on_fail: halt is not allowed", "stop, warn, rollback"),
        ("{gate: $sft, method: sft, limits: handoff}", "node 'ok' has both method and gate", "gate: $NODE"),
        ("{gate: $ok, limits: handoff}", "nodes wait for each other: ok -> ok", ""),
    ],
)
def test_what_is_wrong_with_a_gate_is_said_in_words(mistakes, line, what, told):
    (error,) = mistakes(line)
    assert error.what == what and told in f"{error.why} {error.fix}" and error.exit_code == 2
    assert "(pipeline.ok" in error.where or "(pipeline)" in error.where


@pytest.mark.parametrize(
    ("probe", "limits", "what"),
    [
        ("false", "{pass_at_k: {min: 0}}", "pass_at_k is measured by the probe, and probe is false"),
        ("{samples: 8, k: 8}", "{pass_at_k: {min: 0}}", "pass_at_k at k 8 needs 16 samples of a prompt"),
        ("{samples: 4, k: 4}", "{mixed_groups: {min: 0}}", "mixed_groups at k 4 needs 8 samples"),
        ("{protected: [guard], tasks: {rare: testbed:rare}}", "{success: {min: 0}}", "'guard' is no probe task"),
    ],
)
def test_a_probe_that_cannot_judge_is_found_before_it_runs(mistakes, probe, limits, what):
    assert any(what in error.what for error in mistakes(f"{{gate: $sft, limits: {limits}}}", f"probe={probe}"))


def test_a_stage_after_a_rollback_between_an_adapter_and_a_whole_model_has_to_say_what_it_trains(of, mistakes):
    gate = "{gate: $small, limits: handoff, on_fail: rollback}"
    line = f"{gate}\n  next: {{method: sft, init: $ok, data: $demos, steps: 2}}"
    (error,) = mistakes(line)
    assert error.what == "$ok may or may not be an adapter, as its gate goes" and "lora: true" in error.fix
    assert of(line.replace("steps: 2", "steps: 2, lora: true")).node("next").settings.lora
    continued = of(line.replace("on_fail: rollback", "on_fail: warn")).node("next")
    assert continued.origins["learning_rate"].endswith("x 10 for LoRA")


def test_holding_out_means_nothing_where_a_policy_is_trained(mistakes):
    (error,) = mistakes("{method: sft, data: $demos, steps: 1, heldout: 0.2}")
    assert error.what == "heldout has no effect here" and "policy" in error.why
