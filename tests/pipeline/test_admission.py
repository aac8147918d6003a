"""Training data is compared with what the probe holds out, and most rows have to be of use."""

import json

import pytest

from offon.errors import DataError, OffonError
from offon.pipeline.check import check_recipe
from offon.pipeline.run import run_recipe
from offon.recipe import parse, resolve
from offon.tasks.jsonl import jsonl_task
from tests.support import model

PROMPTS = [f"w{i} w{j}" for i in range(6) for j in range(6)]
HEAD = """
model: ./base
task: {jsonl: ./task.jsonl, verifier: exact}
probe: {prompts: 2, samples: 4, k: 2, max_tokens: 2}
pipeline:
"""


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("user")
    model(0, layers=1).save(root / "base")
    rows = [{"prompt": p, "answer": "w3"} for p in PROMPTS]
    (root / "task.jsonl").write_text(lines(rows))
    task = jsonl_task(rows)
    apart, others = ([item.prompt for item in task.items(split)] for split in ("heldout", "train"))
    spaced = [f"  {apart[0].replace(' ', '   ')} ", *others[:9]]
    (root / "leak.jsonl").write_text(lines({"prompt": p, "completion": "w3"} for p in spaced))
    (root / "apart.jsonl").write_text(lines({"prompt": p, "completion": "w3"} for p in others[:9]))
    (root / "other_task.jsonl").write_text(lines({"prompt": p, "answer": "w3"} for p in PROMPTS[:20]))
    long = [{"prompt": p, "completion": "w3 " * (70 if i < 2 else 1)} for i, p in enumerate(others[:8])]
    (root / "long.jsonl").write_text(
        lines({"prompt": f"{r['prompt']} " + r["completion"], "completion": "w3"} for r in long)
    )
    return root


def resolved(folder, *nodes):
    return resolve(parse(HEAD + "".join(f"  {node}\n" for node in nodes), folder=folder))


@pytest.mark.fault("F20")
def test_a_file_that_asks_what_is_held_out_is_refused_with_an_example_and_the_fix(folder):
    with pytest.raises(DataError, match=r"1 of 10 training prompts \(10.0%\) are held out of task") as caught:
        check_recipe(resolved(folder, "s: {method: sft, data: ./leak.jsonl, steps: 1, contamination: 0.01}"))
    assert caught.value.exit_code == 3
    assert "contamination: 0.11" in caught.value.fix and "w" in caught.value.why


@pytest.mark.fault("F20")
def test_what_stays_under_the_limit_is_counted(folder):
    for limit in ("", ", contamination: 0.11"):
        plan = check_recipe(resolved(folder, f"s: {{method: sft, data: ./leak.jsonl, steps: 1{limit}}}"))
        assert plan["nodes"][0]["ask_what_is_held_out"] == {"task": 1}
    [entry] = check_recipe(resolved(folder, "s: {method: sft, data: ./apart.jsonl, steps: 1}"))["nodes"]
    assert entry["ask_what_is_held_out"] == {"task": 0}


@pytest.mark.fault("F20")
def test_prompts_of_another_tasks_file_are_compared_too(folder):
    node = (
        "rl: {method: grpo, task: {jsonl: ./other_task.jsonl, heldout: 0.0}, steps: 1, max_tokens: 2, contamination: 0}"
    )
    with pytest.raises(OffonError, match=r"training prompts .* are held out of task"):
        check_recipe(resolved(folder, node))


@pytest.mark.fault("F14")
def test_many_dropped_rows_are_the_users_decision(folder):
    with pytest.raises(DataError, match=r"25.0% of the rows would be dropped, more than 5.0%") as caught:
        check_recipe(resolved(folder, "s: {method: sft, data: ./long.jsonl, steps: 1}"))
    assert caught.value.exit_code == 3 and "dropped: 0.26" in caught.value.fix
    check_recipe(resolved(folder, "s: {method: sft, data: ./long.jsonl, steps: 1, dropped: 0.26}"))


@pytest.mark.fault("F14", "F20")
def test_the_shares_stand_in_handoff_and_report(folder, tmp_path):
    nodes = [
        "s: {method: sft, data: ./leak.jsonl, steps: 1, prompts_per_step: 2}",
        "t: {method: sft, data: ./long.jsonl, steps: 1, prompts_per_step: 2, dropped: 0.3}",
    ]
    run = run_recipe(resolved(folder, *nodes), tmp_path / "run")
    handoff = {name: json.loads((run / "nodes" / name / "handoff.json").read_text()) for name in "st"}
    assert handoff["s"]["data"]["contamination"]["task"]["rows"] == 1
    assert handoff["t"]["data"]["sources"][0]["dropped"]["rows"] == 2
    page = (run / "report.html").read_text()
    assert "25.0% of the rows" in page and "held-out prompts of task" in page
