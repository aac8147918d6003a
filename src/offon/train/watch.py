"""Whether a stage diverges, asked after every step; what it remembers is what metrics.jsonl has."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping

from offon.behavior.stage.divergence import Streak, streaks
from offon.errors import NumericsError
from offon.recipe.fields import NodeSettings
from offon.runs import NodeDirectory

CURVES = ("loss/total", "grad_norm", "reward")


class Watch:
    """Call it with each step's metrics: a NumericsError where training diverges, or the words of a warning, once for
    each time, where the node goes on regardless."""

    def __init__(self, node: NodeDirectory, settings: NodeSettings, *, guided: bool):
        """guided: some responses get help that is taken away in time, so that rewards may vanish in a healthy stage."""
        self.node, self.settings = node, settings
        self._judged = CURVES[:2] if guided else CURVES
        self._curves: dict[str, list[float | None]] = {name: [] for name in CURVES}
        self._worst: Streak | None = None

    def restore(self) -> None:
        """Remember the steps that are on record."""
        for line in self.node.metrics():
            self._remember(line)
        self._worst = self._look()

    @property
    def suspicious(self) -> bool:
        """Whether the weights may be bad already, so that a checkpoint should not push out a better one."""
        return self.settings.on_divergence == "stop" and self._worst is not None and self._worst.suspicious

    def __call__(self, step: int, metrics: Mapping[str, float]) -> str:
        before = self._worst
        self._remember(metrics)
        worst = self._worst = self._look()
        if worst is None or not worst.diverges:
            return ""
        words = f"training diverges at step {step}: {worst.words}"
        if self.settings.on_divergence == "warn":
            return "" if before is not None and before.diverges else words
        raise NumericsError(
            words,
            where=f"{self.node.name}, step {step} of {self.settings.steps}",
            fix=f"a smaller learning_rate (now {self.settings.learning_rate:g}), or warmup_steps; "
            "`on_divergence: warn` goes on regardless",
            kept=self._last_good(step - worst.length),
        )

    def _remember(self, metrics: Mapping[str, float]) -> None:
        for name, curve in self._curves.items():
            curve.append(metrics.get(name))

    def _look(self) -> Streak | None:
        losses, norms, rewards = (self._curves[name] if name in self._judged else () for name in CURVES)
        return next(iter(streaks(losses, norms, rewards)), None)

    def _last_good(self, healthy: int) -> str:
        """The newest checkpoint whose weights had a healthy step after them, of which `healthy` was the last. Newer
        ones hold weights that had come apart: they go, so that whatever reads the newest reads this one."""
        saved = {checkpoint.step: checkpoint for checkpoint in self.node.checkpoints()}
        good = [step for step, checkpoint in saved.items() if checkpoint.complete and step < healthy]
        if not good:
            return "metrics, and everything before this stage; no checkpoint is older than the divergence"
        with contextlib.suppress(OSError):
            for step, checkpoint in saved.items():
                if step >= healthy:
                    shutil.rmtree(checkpoint.path)
        return f"checkpoint-{max(good)}, the last from before it"
