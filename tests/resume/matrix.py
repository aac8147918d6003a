"""Every row of the catalogue, killed and resumed, ends with the bytes of one that never stopped.

    python -m tests.resume.matrix [ROW ...] [--kills 3] [--seed 0]

A row is run once through; then again and again in one folder, each time killed by SIGKILL at a random one of the calls
by which it touches the disk (fsync, rename, replace, unlink, a folder removed, half a line written), until it is
through. Weights, metrics, consumption, ledger, probes and reports are compared, bit for bit, without times.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import yaml

from offon.catalogue import registry
from offon.errors import OffonError
from offon.pipeline.run import run_recipe
from offon.recipe import parse, resolve
from offon.testbed import TestbedTask
from tests.catalogue.test_recipes import recipe, user_files
from tests.resume.kills import child, differing, state_of

SMALL = {"steps": 4, "save_steps": 1, "prompts_per_step": 2}
BUFFERED = {"prompts_per_buffer": 4, "epochs": 2}  # a stop falls between two steps of a buffer, and of two passes
PROBE = {"prompts": 2, "samples": 4, "k": 2, "max_tokens": 6}
PIPELINES = {  # what keeps state besides a row's own
    "lora": {"pipeline": {"node": {"method": "sft", "data": "./demonstrations.jsonl", "lora": {"r": 2}, **SMALL}}},
    "lora, replay, anchor": {
        "pipeline": {
            "node": {
                **{"method": "grpo", "group_size": 2, "max_tokens": 6, "lora": {"r": 2}, **SMALL, **BUFFERED},
                "with": [{"replay": {"data": "./demonstrations.jsonl"}}, {"kl_anchor": {"coef": 0.1}}],
            }
        }
    },
    "probe, gate, two stages": {
        "probe": PROBE,
        "pipeline": {
            "sft": {"method": "sft", "data": "./demonstrations.jsonl", **SMALL},
            "kept": {"gate": "$sft", "limits": {"retention": {"min": 0.01}}, "on_fail": "rollback"},
            "rl": {"method": "grpo", "init": "$kept", "group_size": 2, "max_tokens": 6, **SMALL, **BUFFERED},
        },
    },
    "warm-up, cosine": {
        "pipeline": {
            "node": {
                **{"method": "sft", "data": "./demonstrations.jsonl", **SMALL},
                **{"warmup_steps": 2, "lr_scheduler_type": "cosine"},
            }
        }
    },
    "reward model, rl, merge": {
        "probe": PROBE,
        "pipeline": {
            "scorer": {"method": "train_reward_model", "data": "./pairs.jsonl", **SMALL},
            "rl": {
                **{"method": "rloo", "init": "testbed:base", "group_size": 2, "max_tokens": 6, **SMALL},
                "with": [{"reward_model": {"model": "$scorer"}}],
            },
            "merged": {"method": "merge_linear", "models": ["testbed:base", "$rl"]},
        },
    },
}


OUTSIDE = {"judge": "it asks in English, which the testbed's tokenizer has no words for"}
FEW = {"prompts": 6, "prompts_per_buffer": 3}  # of a node that makes data
LEARNABLE = {"jsonl": "./solved.jsonl", "verifier": "exact"}  # what the shipped model solves
SOLVED = (
    "above",
    "rest",
    "rest_em",
    "star",
    "rationales",
    "rewritten",
    "self_distilled_sft",
    "verifier",
)  # rows that learn from right answers alone
TOLD = "{prompt} hint {reference}"  # in words of the testbed, which has no others
OTHERWISE = {  # arguments for fewer prompts, and in the testbed's words
    "rest": {"grow": 1, "thresholds": [0.0, 0.5], "n": 4},
    "rest_em": {"iterations": 2, "n": 4},
    "star": {"iterations": 2, "first_steps": 2, "template": TOLD},
    "rationales": {"template": TOLD},
    "rewritten": {"template": TOLD, "data": "./solved.jsonl"},
    "self_distilled_sft": {"template": TOLD, "data": "./solved.jsonl"},
}
CHAINS = {  # rows that read what another node made
    "above": {
        "best": {"method": "best_of_n", "n": 2, "max_tokens": 8, **FEW},
        "node": {"method": "above", "data": "$best"},
    }
}


@dataclass(frozen=True)
class Result:
    name: str
    kills: int
    touched: int
    seconds: float
    differing: tuple[str, ...] = ()


def files(folder: Path) -> Path:
    """What the recipes read."""
    items = TestbedTask("guard").items("train")[:8]
    rows = [{"prompt": item.prompt, "answer": item.reference, "completion": item.reference} for item in items]
    (folder / "solved.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return user_files(folder)


def cases(folder: Path) -> dict[str, str]:
    """The recipe of each case, by name."""
    texts = {}
    for info in registry.catalogue():
        if info.name in OUTSIDE:
            continue
        form = None
        if info.inputs.get("data"):
            form = info.example().reads if info.kind == "stage" else "demonstrations"
        texts[info.name] = _smaller(info.name, recipe(info.name, form), folder)
    usual = {"model": "testbed:base", "task": "testbed:scaffold", "probe": False}
    return texts | {name: yaml.safe_dump({**usual, **parts}, sort_keys=False) for name, parts in PIPELINES.items()}


def _smaller(name: str, text: str, folder: Path) -> str:
    """Of few prompts, with a checkpoint at every step, and two passes over a buffer of two steps where a row takes
    them: whatever of this its keys admit."""
    parts = yaml.safe_load(text)
    parts["pipeline"] = CHAINS.get(name, parts["pipeline"])
    if name in SOLVED:
        parts["task"] = LEARNABLE
    node = parts["pipeline"]["node"]
    for more in (OTHERWISE.get(name, {}), SMALL, BUFFERED, FEW):
        wider = {**parts, "pipeline": {**parts["pipeline"], "node": node | more}}
        with contextlib.suppress(OffonError):
            resolve(parse(yaml.safe_dump(wider, sort_keys=False), folder=folder))
            parts, node = wider, node | more
    return yaml.safe_dump(parts, sort_keys=False)


def tried(name: str, text: str, folder: Path, scratch: Path, kills: int, seed: int) -> Result:
    """One case: through, and through with kills."""
    started, rng = time.perf_counter(), random.Random(f"{name} {seed}")
    straight, stopped = scratch / "straight", scratch / "stopped"

    def go(output: Path, resume: bool) -> None:
        run_recipe(resolve(parse(text, folder=folder)), output, resume=resume)

    touched = died = 0
    try:
        touched = child(partial(go, straight, False), None)
        left = touched
        while died < kills:
            at = rng.randrange(1, left + 1)
            resume = (stopped / "run.json").exists()
            if child(partial(go, stopped, resume), at) != -1:
                break  # it was through before: a resumed run touches the disk less often
            died, left = died + 1, max(1, left - at // 2)
        child(partial(go, stopped, (stopped / "run.json").exists()), None)
        unequal = differing(state_of(straight), state_of(stopped))
    except AssertionError as error:
        unequal = [str(error)]
    return Result(name, died, touched, time.perf_counter() - started, tuple(unequal))


def every(names: list[str], kills: int, seed: int, told: Callable[[Result], None]) -> list[Result]:
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at) / "user"
        folder.mkdir()
        files(folder)
        for name, text in cases(folder).items():
            if names and not any(wanted in name for wanted in names):
                continue
            scratch = Path(at) / "runs"
            scratch.mkdir()
            result = tried(name, text, folder, scratch, kills, seed)
            shutil.rmtree(scratch)
            told(result)
            results.append(result)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="ROW", help="part of a name; all unless given")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(f"{'row':28} {'kills':>5} {'of calls':>8} {'seconds':>7}  equal", flush=True)

    def told(one: Result) -> None:
        equal = "bit for bit" if not one.differing else "NOT in " + ", ".join(one.differing[:4])
        print(f"{one.name:28} {one.kills:5} {one.touched:8} {one.seconds:7.1f}  {equal}", flush=True)

    for name, why in OUTSIDE.items():
        print(f"{name:28} not tried: {why}", flush=True)
    results = every(asked.names, asked.kills, asked.seed, told)
    wrong = [one.name for one in results if one.differing]
    print(f"{len(results) - len(wrong)} of {len(results)} equal, {sum(one.kills for one in results)} kills")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
