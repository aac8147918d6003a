"""What the contract suite knows about rows beyond their signature, one module per family.

    VARIANTS    {row: [arguments, ...]}                       the cases of a row; [{}] unless written
    MODIFIED    [(row, arguments, (modifier, arguments))]     rows with a modifier
    SURROGATES  {row: function(groups, **arguments) -> loss}  the loss as the paper writes it, for autograd

A surrogate is given the step's groups. A group has `responses` and `pairs` [(winner, loser)]. A response has `lp`, its
log-probs under the learner with gradient, [T], trainable tokens only; `old`, the behaviour log-probs; `advantage` [T];
`reward`; `source` [T]; `tags`; any other score or token signal by `at("logp@start")`; and `member`, the trajectory. The
loss is written with the definitions of the paper, not with those of offon.
"""

import importlib
import pkgutil
from dataclasses import dataclass, field

import torch

_modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
VARIANTS = {name: cases for module in _modules for name, cases in getattr(module, "VARIANTS", {}).items()}
MODIFIED = [case for module in _modules for case in getattr(module, "MODIFIED", [])]
SURROGATES = {name: loss for module in _modules for name, loss in getattr(module, "SURROGATES", {}).items()}


@dataclass
class Response:
    member: object
    lp: torch.Tensor
    columns: dict[str, torch.Tensor]

    def at(self, name: str) -> torch.Tensor:
        return self.columns[name]

    @property
    def old(self) -> torch.Tensor:
        return self.columns["behavior_logp"]

    @property
    def advantage(self) -> torch.Tensor:
        return self.columns["advantage"]

    @property
    def source(self) -> torch.Tensor:
        return self.columns["source"]

    @property
    def reward(self) -> float:
        return self.member.signals["reward"]

    @property
    def tags(self) -> frozenset[str]:
        return self.member.tags


@dataclass
class Seen:
    """A group as a surrogate reads it."""

    responses: list[Response] = field(default_factory=list)
    pairs: list[tuple[Response, Response]] = field(default_factory=list)


def surrogate_loss(case, loss) -> list[torch.Tensor]:
    """The gradient of a row's surrogate at the scores of a `cases.Loss`, one tensor per leaf."""
    name, arguments, _ = case
    batch, leaves = loss.batch, [leaf.value.clone().requires_grad_() for leaf in loss.leaves]
    columns = dict(batch.columns)
    for need, value in loss.given.items():
        columns[need.column] = value
    for leaf, value in zip(loss.leaves, leaves, strict=True):
        columns[leaf.need.column] = value
    trainable, groups, by_position = batch.columns["trainable"], {}, {}
    for position, member in enumerate(batch.trajectories):
        rows = (batch.sequence == position) & trainable
        own = {n: c[rows] for n, c in columns.items() if isinstance(c, torch.Tensor) and len(c) == batch.n_tokens}
        response = Response(member, own["logp@self"], own)
        by_position[position] = response
        groups.setdefault(int(batch.group[position]), Seen()).responses.append(response)
    for winner, loser in batch.pairs.tolist():
        groups[int(batch.group[winner])].pairs.append((by_position[winner], by_position[loser]))
    total = SURROGATES[name](list(groups.values()), **arguments)
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(v) if g is None else g for g, v in zip(found, leaves, strict=True)]
