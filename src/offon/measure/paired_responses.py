"""The responses of two checkpoints to one prompt, each distinct one scored by both.

Axes: D distinct responses of a prompt, T tokens of one, n scored samples of a checkpoint. Policies and checkpoints are
numbered 0 before, 1 after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from offon.behavior.change.k_to_solve import KToSolve, importance_weights, k_to_solve, rounded_down
from offon.behavior.change.prefix_tree import Tree
from offon.behavior.change.relative_support import Scored
from offon.engines.native import evaluating
from offon.models.model import Model
from offon.models.packed.layout import Layout
from offon.types import RIGHT, Group
from offon.types.trajectory import Tokens

SCORED_TOKENS = 16_384  # response tokens of one forward pass
AGREES = 0.05  # nats between scorer and sampler, summed over a response, beyond which known responses certify nothing


@dataclass(frozen=True, eq=False)
class Pooled:
    """responses [D], logp[d] [T, 2] under both policies, right[d] whether its verdicts all say so (None where they
    disagree); samples[i] [n] which response each sample of checkpoint i is, success[i] [n] its own verdict, gap: the
    largest difference between what the sampler said of a response and what the scorer says."""

    responses: list[Tokens]
    logp: list[np.ndarray]
    right: list[bool | None]
    samples: tuple[np.ndarray, np.ndarray]
    success: tuple[np.ndarray, np.ndarray]
    gap: float

    @cached_property
    def total(self) -> np.ndarray:
        """[D, 2] log pi_i(y)."""
        return np.array([logp.sum(axis=0) for logp in self.logp]).reshape(-1, 2)

    def scored(self, checkpoint: int) -> Scored:
        total = self.total[self.samples[checkpoint]]
        return Scored(total[:, 1] - total[:, 0], self.success[checkpoint])

    def log_ratios(self, checkpoint: int) -> list[np.ndarray]:
        """Of each sample of a checkpoint, token by token, after over before."""
        return [self.logp[index][:, 1] - self.logp[index][:, 0] for index in self.samples[checkpoint]]

    def known(self, policy: int, right: bool) -> dict[Tokens, float]:
        """Distinct responses with this verdict -> log pi, less what scorer and sampler differ by, so that sums bound
        from below; none where they disagree."""
        chosen = [index for index, verdict in enumerate(self.right) if verdict is right and self.gap <= AGREES]
        return {
            (y := self.responses[index]): rounded_down(float(self.total[index, policy]), len(y)) - self.gap
            for index in chosen
        }

    def k_to_solve(self, policy: int) -> KToSolve:
        """From this checkpoint's counts, everything known of either's responses, and both checkpoints' samples weighted
        by the balance heuristic."""
        mine = self.success[policy]
        shares = [len(one) for one in self.samples]
        logp = self.total[np.concatenate(self.samples)]
        weights = importance_weights(logp[:, policy], logp, np.array(shares) / sum(shares))
        return k_to_solve(
            int(mine.sum()), len(mine), known=self.known(policy, True), failures=self.known(policy, False),
            weighted=weights * np.concatenate(self.success),
        )  # fmt: skip

    def tree(self) -> Tree:
        """The trie of all responses, with the exact reach of both policies."""
        return Tree.of(((y, logp, True) for y, logp in zip(self.responses, self.logp, strict=True)), policies=2)

    @property
    def verdicts(self) -> Mapping[Tokens, bool | None]:
        return dict(zip(self.responses, self.right, strict=True))


def pool(models: Sequence[Model], before: Sequence[Group], after: Sequence[Group]) -> list[Pooled]:
    """Both checkpoints' scored samples of each prompt, scored by both checkpoints in the same batches."""
    prompts = []
    for groups in zip(before, after, strict=True):
        place: dict[Tokens, int] = {}
        sides = [[m for m in group.members if m.signals["reward"] is not None] for group in groups]
        keys = [[tuple(m.tokens.tolist()) for m in members] for members in sides]
        samples = tuple(np.array([place.setdefault(key, len(place)) for key in row], int) for row in keys)
        prompts.append((groups[0].prompt, list(place), sides, samples))
    pairs = [(prompt, tokens) for prompt, responses, *_ in prompts for tokens in responses]
    sampling = next(m.producer.sampling for group in before for m in group.members)
    columns = [token_logp(model, pairs, sampling.temperature) for model in models]
    scored = iter(np.stack(both, axis=1) for both in zip(*columns, strict=True))
    return [
        _pooled(responses, [next(scored) for _ in responses], sides, samples)
        for _, responses, sides, samples in prompts
    ]


def _pooled(responses, logp, sides, samples) -> Pooled:
    success = tuple(np.array([float(m.signals["reward"] >= RIGHT) for m in members]) for members in sides)
    verdicts: list[set[bool]] = [set() for _ in responses]
    gap = 0.0
    for policy, (members, index, outcome) in enumerate(zip(sides, samples, success, strict=True)):
        for member, at, right in zip(members, index, outcome, strict=True):
            verdicts[at].add(bool(right))
            gap = max(gap, abs(float(member.behavior_logp.sum(dtype=float)) - float(logp[at][:, policy].sum())))
    right = [next(iter(verdict)) if len(verdict) == 1 else None for verdict in verdicts]
    return Pooled(responses, logp, right, samples, success, gap)


@torch.no_grad()
def token_logp(model: Model, pairs: Sequence[tuple[Tokens, Tokens]], temperature: float) -> list[np.ndarray]:
    """[T] log-probs of each response under the sampler's temperature, prompt by prompt, some responses at a time."""
    logps: list[np.ndarray] = []
    size = max(1, SCORED_TOKENS // max(len(prompt) + len(tokens) for prompt, tokens in pairs))
    with evaluating(model.hf):
        for first in range(0, len(pairs), size):
            layout = Layout.of(pairs[first : first + size])
            logp_M = model.logp(layout, temperature=torch.full((layout.n_targets,), temperature)).double().cpu()
            logps += [piece.numpy() for piece in logp_M.split(layout.lengths)]
    return logps
