"""Does forgetting track KL(before || after) on the new task (RL's Razor, arXiv:2509.04259)?

The new task: prompts of `rare`, whose right route is now backward (the base takes it in 45%), in whichever format. The
protected one: `guard`, which wants forward and `#`. The same thing is learned in several ways and at several learning
rates; what is taught differs in how far it lies from the base, which never writes `:` here:

    sft near, mixed, far     demonstrations that end in `#`, in `#` or `:` in turn, in `:`
    grpo                     rewards on own rollouts
    distilled near, far      on-policy, from the model that sft near, sft far made

KL is exact: by prefix, over the tree of the base's responses, full vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from offon.behavior.statistics.intervals import Est
from offon.engines.expansion import expand
from offon.models.model import Model
from offon.testbed import TestbedTask, model_path
from offon.testbed.grammar import RESPONSE_TOKENS
from offon.testbed.oracle import exact
from studies.validation.compete import Competing
from studies.validation.findings import Finding

TASK = Competing(minority=0.0, any_format=True)
RATES = {"low": 1e-4, "middle": 3e-4, "high": 1e-3}
ONLINE = ("low", "middle")  # of what samples: at the high rate GRPO unlearns the new task itself
ENDS = {"near": ("#",), "mixed": ("#", ":"), "far": (":",)}
LEARNED = 0.85  # success on the new task; stages below have not learned it and are set aside
MIN_REACH = 1e-4  # of a prefix of the policy that KL is an expectation under; what was cut is stated
PROMPTS = 48


def demonstrations(at: Path, form: str) -> str:
    """Right answers, their ends in turn those of the form."""
    rows = []
    for index, item in enumerate(TASK.items("train")[:384]):
        *words, _ = item.reference.split()
        rows.append({"prompt": item.prompt, "completion": " ".join([*words, ENDS[form][index % len(ENDS[form])]])})
    path = at / f"{form}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def nodes(at: Path, steps: int) -> dict[str, Any]:
    """Every stage, from the base; the on-policy students of what sft made at the middle rate come last."""
    online = {"task": TASK, "max_tokens": 8, "steps": steps}
    found: dict[str, Any] = {}
    for form in ENDS:
        for word, rate in RATES.items():
            rows = {"data": demonstrations(at, form), "prompts_per_step": 32}
            found[f"sft-{form}-{word}"] = {"method": "sft", **rows, "learning_rate": rate, "steps": steps}
    for word in ONLINE:
        grouped = {"group_size": 8, "prompts_per_step": 16, "learning_rate": RATES[word]}
        found[f"grpo-{word}"] = {"method": "grpo", **grouped, **online}
        for form in ("near", "far"):
            taught = {"teacher": f"$sft-{form}-middle", "prompts_per_step": 64, "learning_rate": RATES[word]}
            found[f"distilled-{form}-{word}"] = {"method": "on_policy_distill", **taught, **online}
    return {name: {"init": "testbed:base", **node} for name, node in found.items()}


def measured(run: Path, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of each stage: success on the new and the protected task, and both KLs to the base on the new one."""
    new, kept = TASK.items("heldout")[:PROMPTS], TestbedTask("guard").items("heldout")
    base = Model.load(model_path("base"))
    start = float(np.mean([row.success for row in exact(base.hf, base.tokenizer, kept)]))
    found = {}
    for name in names:
        model = Model.load(run / "nodes" / name / "final")
        rows, guard = (exact(model.hf, model.tokenizer, items) for items in (new, kept))
        forward, cut = divergence(base, model, new)
        found[name] = {
            "success": float(np.mean([row.content for row in rows])),
            "forgot": start - float(np.mean([row.success for row in guard])),
            "kl": forward, "cut": cut, "kl of after": divergence(model, base, new)[0],
        }  # fmt: skip
    return found


def divergence(p: Model, q: Model, items) -> tuple[float, float]:
    """KL(p || q) per response in nats, mean over prompts, and the probability of p's responses that was cut.

    KL = sum over prefixes of reach_p * KL(p(. | prefix) || q(. | prefix))
    """
    prompts = [tuple(p.tokenizer(item.prompt).input_ids) for item in items]
    found = expand([p], prompts, eps=MIN_REACH, horizon=RESPONSE_TOKENS)
    reach = {prompt: 1.0 for prompt in prompts}
    for prompt, tree in zip(prompts, (one.tree for one in found), strict=True):
        reach |= {(*prompt, *tree.path(edge)): tree.reach[edge, 0] for edge in np.flatnonzero(~tree.ends)}
    prefixes = list(reach)
    one, other = (log_next(model, prefixes) for model in (p, q))
    local = (np.exp(one) * (one - other)).sum(axis=1)
    weights = np.array(list(reach.values()))
    return float(weights @ local / len(items)), float(np.mean([one.residual[0] for one in found]))


@torch.no_grad()
def log_next(model: Model, prefixes: Sequence[tuple[int, ...]]) -> np.ndarray:
    """[prefixes, V] log-probabilities of the next token; prefixes of one length share a forward pass."""
    found = [np.empty(0)] * len(prefixes)
    for length in sorted({len(prefix) for prefix in prefixes}):
        rows = [row for row, prefix in enumerate(prefixes) if len(prefix) == length]
        logits = model.hf.eval()(input_ids=torch.tensor([prefixes[row] for row in rows])).logits[:, -1]
        for row, log_p in zip(rows, logits.double().log_softmax(-1).numpy(), strict=True):
            found[row] = log_p
    return np.stack(found)


def rank_correlation(seeds: Sequence[Mapping[str, Mapping[str, float]]], of: str = "kl", only: str = "") -> Est:
    """Spearman's rho between forgetting and a divergence over stages that learned, all seeds together. Interval: stages
    resampled, each with all its seeds. NaN where fewer than three stages learned."""
    names = [name for name in seeds[0] if name.startswith(only)]
    points = {
        name: [(seed[name][of], seed[name]["forgot"]) for seed in seeds if seed[name]["success"] >= LEARNED]
        for name in names
    }
    points = {name: pairs for name, pairs in points.items() if pairs}
    rng, clusters = np.random.default_rng(0), list(points.values())
    if len(clusters) < 3:
        return Est(np.nan, np.nan, np.nan)

    def rho(chosen) -> float:
        x, y = np.array([pair for pairs in chosen for pair in pairs]).T
        return float(stats.spearmanr(x, y).statistic)

    drawn = [
        rho([clusters[i] for i in picks])
        for picks in rng.integers(len(clusters), size=(1000, len(clusters)))
        if len(set(picks)) > 2
    ]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Est(rho(clusters), float(low), float(high))


def findings(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> list[Finding]:
    learned = sum(stage["success"] >= LEARNED for seed in seeds for stage in seed.values())
    of = f"{learned} stages of {sum(map(len, seeds))} that learned the new task ({len(seeds)} seeds)"
    est = rank_correlation(seeds)
    found = [
        Finding(what="forgetting against KL(before || after) on the new task: rank correlation, low end",
                value=est.low, relation=">=", bound=0.0, of=f"{est}; {of}")
    ]  # fmt: skip
    other = rank_correlation(seeds, "kl of after")
    found.append(
        Finding(what="forgetting against KL(after || before) on the new task: rank correlation", value=other.estimate,
                told=True, of=str(other))
    )  # fmt: skip
    return found


def table(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """Means over seeds, the stages in order of their KL."""
    lines = [
        "| stage | new task | forgotten of guard | KL(before, after), nats | KL(after, before) |",
        "|---|---|---|---|---|",
    ]

    def mean(name: str, what: str) -> str:
        values = [seed[name][what] for seed in seeds]
        return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"

    for name in sorted(seeds[0], key=lambda n: np.mean([seed[n]["kl"] for seed in seeds])):
        cells = [mean(name, what) for what in ("success", "forgot", "kl", "kl of after")]
        lines.append(f"| {name.replace('-', ', ')} | {' | '.join(cells)} |")
    return "\n".join(lines)
