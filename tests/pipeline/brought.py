"""What a user brings, tiny: two models, demonstrations of "w3 w4", three tasks; and a recipe of three stages."""

from __future__ import annotations

import json
from pathlib import Path

from offon.recipe import ResolvedRecipe, parse, resolve
from tests.support import model

RECIPE = """
model: ./base
probe:
  prompts: 8
  samples: 16
  k: 4
  max_tokens: 4
  tasks: {task: {jsonl: ./task.jsonl}, other: {jsonl: ./other.jsonl}}
  protected: [other]
  shifted: {task: {again: {jsonl: ./more.jsonl}}}
  scaffold: hint
pipeline:
  one: {method: sft, data: ./demos.jsonl, steps: 24, learning_rate: 1e-2, prompts_per_step: 8}
  two: {method: sft, init: $one, data: ./demos.jsonl, steps: 8, learning_rate: 1e-2, prompts_per_step: 8}
  small:
    {method: on_policy_distill, init: ./small, teacher: $two, task: {jsonl: ./task.jsonl}, steps: 2, max_tokens: 4}
"""
TWO_STAGES = RECIPE[: RECIPE.index("  small:")]


def bring(root: Path) -> Path:
    """Write it all into a folder. The prompts of the first task have a hint; each task has prompts of its own."""
    model(0).save(root / "base")
    model(2, layers=1).save(root / "small")

    def write(name: str, rows: list[dict]) -> None:
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    prompts = [f"w{i} w{j}" for i in range(12) for j in range(12)]
    write("demos.jsonl", [{"prompt": p, "completion": " w3 w4"} for p in prompts[:60]])
    write("task.jsonl", [{"prompt": p, "answer": "w3 w4", "views": {"hint": f"{p} w9"}} for p in prompts])
    write("other.jsonl", [{"prompt": f"{p} w7", "answer": "w3"} for p in prompts])
    write("more.jsonl", [{"prompt": f"w8 {p}", "answer": "w3 w4"} for p in prompts])
    return root


def resolved(folder: Path, text: str = RECIPE, **overrides: str) -> ResolvedRecipe:
    return resolve(parse(text, folder=folder), overrides=[f"{key}={value}" for key, value in overrides.items()])
