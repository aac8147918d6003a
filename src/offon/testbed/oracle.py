"""What a testbed model does, exactly: no sampling, no error bars.

The responses of a model form a tree, which `offon.engines.expansion` expands: a branch is cut where its probability
falls below `min_reach`; what was cut is added up and stated. Branches that lead to right answers are never cut, so
success is exact however small it is.

Probabilities are those of the sampler softmax(logits / temperature), full softmax, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from offon.behavior.change.enumeration import Enumeration
from offon.engines.expansion import expand
from offon.models.model import Model
from offon.testbed.grammar import FAMILIES, RESPONSE_TOKENS, ROUTES
from offon.testbed.task import TestbedTask, right_answers
from offon.types import Item, Sampling, Verdict


@dataclass(frozen=True)
class Exact:
    """Exact behaviour on one item.

    success, content  probability of a response with score 1, and with content 1
    routes            probability of each route word as first token
    residual          probability of the responses that were not looked at; none of them is a right answer of the
                      testbed's own checker, for another predicate it bounds what was missed
    """

    success: float
    content: float
    routes: Mapping[str, float]
    residual: float


def exact(
    model: torch.nn.Module,
    tokenizer,
    items: Sequence[Item],
    *,
    view: str = "prompt",
    verify: Callable[[Sequence[tuple[Item, str]]], Sequence[Verdict]] | None = None,
    min_reach: float = 1e-3,
    temperature: float = 1.0,
) -> list[Exact]:
    """Exact success of a model over the testbed's vocabulary (any transformers causal LM, fine-tuned or adapted).

    `view` names the prompt to condition on; `verify` is the predicate, the testbed's checker by default.
    """
    was_training = model.training
    enumerations = expand(
        [Model.wrap(model, tokenizer, device=next(model.parameters()).device)],
        [tokenizer(item.prompt if view == "prompt" else item.views[view]).input_ids for item in items],
        Sampling(temperature=temperature),
        eps=min_reach,
        horizon=RESPONSE_TOKENS,
        follow=[tokenizer([*right_answers(item), *ROUTES]).input_ids for item in items],
    )
    model.train(was_training)
    verify = verify or TestbedTask().verify
    return [_judged(item, each, tokenizer, verify) for item, each in zip(items, enumerations, strict=True)]


def _judged(item: Item, enumeration: Enumeration, tokenizer, verify) -> Exact:
    tree = enumeration.tree
    ends, mass = np.flatnonzero(tree.ends), tree.reach[:, 0]
    texts = tokenizer.batch_decode([tree.path(edge) for edge in ends], skip_special_tokens=True)
    verdicts = verify([(item, text) for text in texts])
    opening = {int(tree.token[edge]): float(mass[edge]) for edge in np.flatnonzero(tree.parent < 0)}
    return Exact(
        success=sum(float(p) for p, verdict in zip(mass[ends], verdicts, strict=True) if verdict.score == 1),
        content=sum(float(p) for p, verdict in zip(mass[ends], verdicts, strict=True) if verdict.content == 1),
        routes={route: opening[tokenizer.convert_tokens_to_ids(route)] for route in ROUTES},
        residual=float(enumeration.residual[0]),
    )


def summary(rows: Sequence[Exact]) -> dict[str, float]:
    """Means over items, and the extremes of success."""
    success = [row.success for row in rows]
    mean = {name: float(np.mean([asdict(row)[name] for row in rows])) for name in ("success", "content", "residual")}
    routes = {f"route/{route}": float(np.mean([row.routes[route] for row in rows])) for route in ROUTES}
    return {"items": len(rows), **mean, "success/min": min(success), "success/max": max(success), **routes}


def family_table(model: torch.nn.Module, tokenizer, items: Sequence[Item], **options) -> dict[str, dict[str, float]]:
    """`summary` per family and view: {"rare": {...}, "scaffold": {...}, "scaffold/hint": {...}}."""
    table = {}
    for family in FAMILIES:
        members = [item for item in items if item.family == family]
        if not members:
            continue
        for view in ("prompt", *members[0].views):
            name = family if view == "prompt" else f"{family}/{view}"
            table[name] = summary(exact(model, tokenizer, members, view=view, **options))
    return table
