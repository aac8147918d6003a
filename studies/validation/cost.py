"""What diagnosing costs beyond the sampling it needs."""

from __future__ import annotations

import time

import numpy as np

from offon.data import prompt_groups
from offon.diagnosis.allocation import allocate
from offon.diagnosis.measurements import DiagnosisSampler
from offon.models.model import Model
from offon.tasks import open_task
from offon.testbed import model_path
from offon.types import Sampling
from studies.validation.findings import Finding

BUDGET, K = 64, 16


def bench(prompts: int, salt: int) -> DiagnosisSampler:
    learner, task = Model.load(model_path("base")), open_task({"testbed": ["rare", "absent", "format", "guard"]})
    groups = prompt_groups(list(task.items("heldout"))[:prompts], learner.tokenizer)
    return DiagnosisSampler(
        learner, None, task, groups, Sampling(max_tokens=8), salt=salt, progress=lambda done, total: None
    )


def run(quick: bool) -> list[Finding]:
    """Diagnosis and plain sampling take turns on one model; the median of their ratios, in CPU seconds of one thread.

    The diagnosis spends what it likes of 64 rollouts a prompt; the plain sampling draws as many rollouts of each
    prompt, in one go.
    """
    prompts, repeats, ratios = (20, 1, []) if quick else (200, 11, [])
    for repeat in range(repeats):
        diagnosed, plain = bench(prompts, 2 * repeat), bench(prompts, 2 * repeat + 1)
        started = time.process_time()
        allocate(diagnosed, BUDGET, K)
        middle = time.process_time()
        for samples in np.unique(diagnosed.spent):
            plain.measure("rollouts", np.flatnonzero(diagnosed.spent == samples), int(samples))
        ratios.append((middle - started) / (time.process_time() - middle))
    told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return [
        Finding(what=f"CPU time of diagnosing {prompts} prompts at budget {BUDGET}, over plain sampling",
                value=float(np.median(ratios)), relation="<=", bound=1.3,
                of=f"{told}; {diagnosed.spent.mean():.0f} rollouts per prompt")
    ]  # fmt: skip
