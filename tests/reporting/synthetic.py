"""A run directory as a real pipeline leaves it: two roots, three stages, five families, all through the storage API.

Success counts are binomial draws around planted rates, so its measurements are what `offon.behavior` makes of them.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from offon.behavior.diagnosis.diagnose import diagnose, measured_outcomes
from offon.behavior.stage.task_entry import task_handoff
from offon.runs import RunDirectory
from offon.types import Comparison, Group, Item, Producer, Sampling, Source, Trajectory

K, PROMPTS, SAMPLES = 32, 16, 96
FAMILIES = ("rare", "absent", "format", "scaffold", "guard")
#          success probability of a prompt in each family, at each checkpoint
RATES = {
    "base": (0.15, 0.0, 0.02, 0.05, 0.97),
    "sft": (0.35, 0.22, 0.90, 0.08, 0.96),
    "rl": (0.96, 0.55, 0.99, 0.60, 0.85),
    "student": (0.01, 0.0, 0.03, 0.0, 0.60),
    "out": (0.81, 0.30, 0.93, 0.35, 0.88),
}
STAGES = {"sft": ("base", "sft"), "rl": ("sft", "rl"), "out": ("student", "out")}
METHODS = {
    "sft": ("sft", "sft", "token", "off-policy", "expansion"),
    "rl": ("grpo", "rl", "reward", "on-policy", "reshaping"),
    "out": ("on_policy_distill", "on-policy-teacher", "teacher", "on-policy", "consolidation"),
}
INPUTS = {
    "sft": [{"kind": "init", "from": "base"}, {"kind": "data", "from": "data/demos.jsonl"}],
    "rl": [{"kind": "init", "from": "sft"}, {"kind": "reference", "from": "sft"}],
    "out": [{"kind": "init", "from": "student"}, {"kind": "teacher", "from": "rl"}],
}
RECIPE = """\
model: ./base
task: {testbed: [rare, absent, format, scaffold, guard]}
pipeline:
  sft: {method: sft, data: data/demos.jsonl, steps: 60}
  rl:  {method: grpo, init: $sft, group_size: 8, steps: 60, with: [{kl_anchor: {to: $sft, coef: 0.05}}]}
  out: {method: on_policy_distill, init: ./student, teacher: $rl, steps: 60}
"""
WORDS = [
    "<pad>",
    "<eos>",
    "[A]",
    "[B]",
    "<hint>",
    "x0",
    "x1",
    "x2",
    "x3",
    "o1",
    "o2",
    "o3",
    "s7",
    "s9",
    "s12",
    ":",
    "#",
    "=",
]
ATTACK = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def attacked(value, ours=(), names=()):
    """A JSON value whose every string is an attack, but for those under the keys `ours`, and so are the keys of the
    mappings under `names`."""
    if isinstance(value, str):
        return f"{ATTACK} {value}"
    if isinstance(value, list):
        return [attacked(inner, ours, names) for inner in value]
    if not isinstance(value, dict):
        return value
    found = {
        key: inner if key in ours and isinstance(inner, str) else attacked(inner, ours, names)
        for key, inner in value.items()
    }
    return {
        key: {f"{ATTACK} {name}": inner for name, inner in part.items()}
        if key in names and isinstance(part, dict)
        else part
        for key, part in found.items()
    }


def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def probed(name, prompts, rng):
    rate = {family: RATES[name][i] for i, family in enumerate(FAMILIES)}
    return [
        (
            rng.random(SAMPLES)
            < np.clip(rate[p["family"]] + 0.04 * rng.standard_normal() * (rate[p["family"]] > 0), 0, 1)
        )
        .astype(float)
        .tolist()
        for p in prompts
    ]


def prompts():
    return [
        {"id": f"{family}-{i}", "family": family, "prompt": f"[{'AB'[i % 2]}] x0 o{1 + i % 3} o2 o3 ="}
        for family in FAMILIES
        for i in range(PROMPTS)
    ]


def trajectory(id, right, source=Source.LEARNER, step=0, text="", **fields):
    ids = [2 + right, 12, 13, 14, 16 if right else 15, 1]
    sampled = source != Source.EXTERNAL
    return Trajectory.of(
        ids,
        fields.pop("prefix", (2, 5, 9, 10, 11, 17)),
        source,
        behavior_logp=[-0.4] * len(ids) if sampled else None,
        signals={"reward": float(right)} if sampled else {},
        producer=Producer(model="m", step=step, sampling=Sampling() if sampled else None),
        text=text or " ".join(WORDS[i] for i in ids),
        id=id,
        **fields,
    )


def shard(stage, buffer, rng):
    """A few groups as the stage's method would leave them: demonstrations, scored groups with a drop, teacher spans."""
    item = Item(
        id=f"{stage}-{buffer}",
        prompt="[A] x0 o1 o2 o3 =",
        family=FAMILIES[buffer % 5],
        views={"hint": "<hint> [A] x0 o1 o2 o3 ="},
    )
    views = {"prompt": (2, 5, 9, 10, 11, 17), "hint": (4, 2, 5, 9, 10, 11, 17)}
    name = f"{stage}/{buffer}"
    if stage == "sft":
        return [Group(item=item, views=views, members=(trajectory(f"{name}/0", True, Source.EXTERNAL),), draw=buffer)]
    if stage == "out":
        mixed = [Source.TEACHER, Source.TEACHER, Source.LEARNER, Source.LEARNER, Source.LEARNER, Source.LEARNER]
        member = trajectory(f"{name}/0", True, mixed, buffer, scaffold=[True, False, False, False, False, False])
        return [
            Group(item=item, views=views, members=(member, trajectory(f"{name}/1", False, step=buffer)), draw=buffer)
        ]
    right = rng.random(4) < 0.2 + 0.02 * buffer
    members = tuple(trajectory(f"{name}/{i}", int(r), step=buffer) for i, r in enumerate(right))
    hinted = trajectory(f"{name}/4", True, step=buffer, prefix=views["hint"], views={"train": views["prompt"]})
    evil = trajectory(f"{name}/5", False, step=buffer, text=ATTACK).replace(
        tokens=np.zeros(0, np.int32), source=np.zeros(0, np.int8), scaffold=np.zeros(0, bool), behavior_logp=None
    )
    dropped = ((members[3], "every member failed"), (evil, "no token was sampled"))
    return [
        Group(
            item=item,
            views=views,
            members=(*members[:3], hinted),
            draw=buffer,
            dropped=dropped,
            comparisons=(Comparison(0, 1),),
        )
    ]


def train(run, name, steps, done):
    node, rng = run.node(name), np.random.default_rng(len(name))
    for step in range(1, done + 1):
        part = step / steps
        groups = shard(name, step - 1, rng)
        node.write_buffer(step - 1, groups)
        node.record_consumption(step, "policy", [member.id for member in groups[0].members])
        values = {
            "loss/total": 1.2 * math.exp(-3 * part) + 0.05 * rng.standard_normal(),
            "grad_norm": 1.4 * math.exp(-part) * (0.8 + 0.4 * rng.random()),
            "learning_rate": 1e-4 * min(1, step / 6),
            "num_tokens": 900 * step,
            "time/step_s": 0.8 + 0.1 * rng.random(),
        }
        if name == "rl":
            reward = 0.2 + 0.7 * part**0.7 + 0.05 * rng.standard_normal()
            values |= {
                "reward": reward,
                "frac_reward_zero_std": max(0.0, 0.9 - reward),
                "completions/mean_length": 6 + 0.2 * rng.standard_normal(),
                "completions/clipped_ratio": 0.0,
                "off_policy/sampler_gap_nats": 1e-7 * rng.random(),
                "ratio/clip_frac": 0.02 * rng.random(),
            }
        node.log_metrics(step, values)
    with node.checkpoint(done) as directory:
        tokenizer().save(str(directory / "tokenizer.json"))


def handoff(name, rng):
    before, after = STAGES[name]
    asked = prompts()
    sampler = {"temperature": 1.0}
    entry = task_handoff(probed(before, asked, rng), probed(after, asked, rng), asked, k=K, sampler=(sampler, sampler))
    external, teacher = {"sft": (54_000, 0), "rl": (0, 0), "out": (0, 21_000)}[name]
    return {
        "node": name,
        "before": before,
        "after": after,
        "k": K,
        "tasks": {"testbed": entry},
        "tokens_by_source": {
            "external": external,
            "teacher": teacher,
            "learner": 0 if external else 84_000,
            "environment": 0,
        },
        "fates": {"trained": 960} | ({"dropped: every member failed": 480} if name == "rl" else {}),
        "off_policy": {
            "mean_age": {"sft": None, "rl": 0.0, "out": 1.5}[name],
            "conditioned_share": {"sft": None, "rl": 0.04, "out": 0.0}[name],
            "sampler_gap_nats": {"sft": None, "rl": 2.1e-8, "out": 4.2e-3}[name],
        },
        "regime": {"sft": "off-policy", "rl": "on-policy", "out": "mixed"}[name],
        "cost": {
            "tokens_generated": 0 if external else 92_160,
            "tokens_trained": 54_000 if external else 84_000 + teacher,
            "tokens_scored": 0 if name == "sft" else 92_160,
            "verifier_calls": 15_360 if name == "rl" else 0,
            "seconds": {"sft": 31.4, "rl": 74.2, "out": 58.0}[name],
        },
        "warnings": [
            "held-out success fell on guard: -0.110 [-0.121, -0.099]: look at the lost prompts before going on"
        ]
        if name == "rl"
        else [],
    }


def pipeline(states):
    roots = [{"name": root, "kind": "model", "inputs": [], "state": "done"} for root in ("base", "student")]
    nodes = [
        {
            "name": name,
            "kind": "train",
            **dict(
                zip(("method", "family", "interface", "usual_provenance", "usual_role"), METHODS[name], strict=True)
            ),
            "steps": 60,
            "inputs": INPUTS[name],
            "state": states.get(name, "pending"),
        }
        for name in STAGES
    ]
    return {"nodes": roots + nodes, "probe": {"k": K, "prompts": PROMPTS * len(FAMILIES), "samples": SAMPLES}}


def whole_run(path: Path) -> Path:
    """All three stages done, diagnosed and measured."""
    rng = np.random.default_rng(0)
    with RunDirectory.create(path, recipe_text=RECIPE, info={"seed": 0, "command": "offon run recipe.yaml"}) as run:
        run.write_pipeline(pipeline(dict.fromkeys(STAGES, "done")))
        asked = prompts()
        strict = probed("base", asked, rng)
        content = [
            [max(s, c) for s, c in zip(row, other, strict=True)]
            for row, other in zip(strict, probed("sft", asked, rng), strict=True)
        ]
        run.write_diagnosis([diagnose(measured_outcomes(strict, content), asked, k=K, model="base", task="testbed")])
        for name in STAGES:
            train(run, name, 60, 60)
            run.node(name).write_json("handoff.json", handoff(name, rng))
        run.write_status("done", exit_code=0)
    return path


def interrupted_run(path: Path) -> Path:
    """Stopped in the first stage: no handoff, no diagnosis, a pipeline that mostly has not happened."""
    with RunDirectory.create(path, recipe_text=RECIPE) as run:
        run.write_pipeline(pipeline({"sft": "running"}))
        train(run, "sft", 60, 23)
        run.write_status("interrupted", node="sft", step=23, steps=60, exit_code=130)
    return path


def empty_run(path: Path) -> Path:
    """Failed before anything was written but the recipe."""
    with RunDirectory.create(path, recipe_text=RECIPE) as run:
        run.write_status("failed", exit_code=3, error="error[data]: no row has a prompt")
    return path
