"""What a testbed model does, exactly: no sampling, no error bars.

The responses of a model form a tree. It is expanded breadth first, a batch of prefixes per forward pass, and a
branch is cut where its probability falls below `min_reach`; what was cut is added up and stated. Branches that
lead to right answers are never cut, so success is exact however small it is.

V vocabulary. Probabilities are those of the sampler softmax(logits / temperature), full softmax, in float64.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from offon.testbed.grammar import FAMILIES, RESPONSE_TOKENS, ROUTES
from offon.testbed.task import TestbedTask, right_answers
from offon.types import Item, Verdict
from offon.types.trajectory import Tokens

ROWS_PER_FORWARD = 2048


@dataclass(frozen=True)
class Tree:
    """The responses to one prompt: sum(responses.values()) + residual = 1.

    responses  response tokens -> probability; the last token is a stop token unless the horizon cut the response
    opening_V  distribution of the first token
    residual   probability of all responses that were not expanded
    """

    responses: Mapping[Tokens, float]
    opening_V: np.ndarray
    residual: float


def response_trees(
    model: torch.nn.Module,
    prompts: Sequence[Tokens],
    *,
    stop: Collection[int],
    horizon: int,
    min_reach: float,
    follow: Sequence[Iterable[Tokens]] | None = None,
    temperature: float = 1.0,
) -> list[Tree]:
    """Enumerate the response tree of each prompt down to `horizon` tokens.

    A prefix is expanded if its probability (reach) is at least `min_reach`, or if it starts a response in `follow`
    (one collection per prompt). Reach never grows along a path, so nothing above `min_reach` is missed.
    """
    followed = [_successors(responses) for responses in follow or [()] * len(prompts)]
    responses: list[dict[Tokens, float]] = [{} for _ in prompts]
    openings, residual = [], np.zeros(len(prompts))
    frontier: list[tuple[int, Tokens, float]] = [(index, (), 1.0) for index in range(len(prompts))]
    for depth in range(horizon):
        next_V = _next_token(model, [prompts[index] + prefix for index, prefix, _ in frontier], temperature)
        if depth == 0:
            openings = next_V
        children = []
        for (index, prefix, reach), p_V in zip(frontier, next_V, strict=True):
            reach_V = reach * p_V
            kept_V = reach_V >= min_reach
            kept_V[list(followed[index].get(prefix, ()))] = True
            residual[index] += reach_V[~kept_V].sum()
            for token in np.flatnonzero(kept_V).tolist():
                child = (*prefix, token)
                if token in stop or depth == horizon - 1:
                    responses[index][child] = float(reach_V[token])
                else:
                    children.append((index, child, float(reach_V[token])))
        frontier = children
        if not frontier:
            break
    return [Tree(*parts) for parts in zip(responses, openings, residual.tolist(), strict=True)]


def _successors(responses: Iterable[Tokens]) -> dict[Tokens, set[int]]:
    successors = defaultdict(set)
    for response in responses:
        for position, token in enumerate(response):
            successors[tuple(response[:position])].add(token)
    return successors


@torch.no_grad()
def _next_token(model: torch.nn.Module, prefixes: Sequence[Tokens], temperature: float) -> np.ndarray:
    """[prefixes, V] next-token distributions; prefixes of one length share a forward pass, so none is padded."""
    by_length = defaultdict(list)
    for row, prefix in enumerate(prefixes):
        by_length[len(prefix)].append(row)
    device, next_V = next(model.parameters()).device, [None] * len(prefixes)
    for rows in by_length.values():
        for start in range(0, len(rows), ROWS_PER_FORWARD):
            chunk = rows[start : start + ROWS_PER_FORWARD]
            ids = torch.tensor([prefixes[row] for row in chunk], device=device)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
            for row, p_V in zip(chunk, (logits.double() / temperature).softmax(-1).cpu().numpy(), strict=True):
                next_V[row] = p_V
    return np.stack(next_V)


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
    model.eval()
    trees = response_trees(
        model,
        [tuple(tokenizer(item.prompt if view == "prompt" else item.views[view]).input_ids) for item in items],
        stop={tokenizer.eos_token_id},
        horizon=RESPONSE_TOKENS,
        min_reach=min_reach,
        follow=[[tuple(ids) for ids in tokenizer(list(right_answers(item))).input_ids] for item in items],
        temperature=temperature,
    )
    model.train(was_training)
    verify = verify or TestbedTask().verify
    return [_judged(item, tree, tokenizer, verify) for item, tree in zip(items, trees, strict=True)]


def _judged(item: Item, tree: Tree, tokenizer, verify) -> Exact:
    texts = tokenizer.batch_decode([list(tokens) for tokens in tree.responses], skip_special_tokens=True)
    verdicts = verify([(item, text) for text in texts])
    mass = list(tree.responses.values())
    return Exact(
        success=sum(p for p, verdict in zip(mass, verdicts, strict=True) if verdict.score == 1),
        content=sum(p for p, verdict in zip(mass, verdicts, strict=True) if verdict.content == 1),
        routes={route: float(tree.opening_V[tokenizer.convert_tokens_to_ids(route)]) for route in ROUTES},
        residual=tree.residual,
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
