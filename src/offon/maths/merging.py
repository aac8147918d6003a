"""Merging models of one architecture, parameter by parameter. Pure functions on mappings from names to tensors.

All in float32; tau = theta - theta_base is a task vector. Every function returns the merged weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from offon.errors import ModelError
from offon.lazy import Tensor, torch

Weights = Mapping[str, Tensor]
NEARLY_PARALLEL = 0.9995  # |cos| beyond which the arc is as good as its chord and dividing by its sine is not safe


def same_shape(*models: Weights) -> None:
    same_shapes(*({name: tuple(value.shape) for name, value in model.items()} for model in models))


def same_shapes(*models: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse models whose parameters differ in name or shape, with the first that does."""
    first, *others = models
    for other in others:
        differing = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if differing:
            name = differing[0]
            raise ModelError(
                "models of different architecture cannot be merged",
                why=f"{len(differing)} parameters differ, {name} among them: "
                f"{first.get(name, 'missing')} and {other.get(name, 'missing')}",
                fix="models that were fine-tuned from one base; tied and untied heads are different architectures",
            )


def linear(models: Sequence[Weights], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """sum_i w_i theta_i / sum_i w_i; equal weights unless given.

    >>> linear([{"a": torch.tensor([1.0])}, {"a": torch.tensor([3.0])}], (3, 1))
    {'a': tensor([1.5000])}
    """
    weights = weights or [1.0] * len(models)
    if len(weights) != len(models) or sum(weights) == 0:
        raise ModelError(f"{len(models)} models and weights {list(weights)}", fix="one weight a model, sum not 0")
    same_shape(*models)
    shares = [weight / sum(weights) for weight in weights]
    return {name: sum(s * m[name] for s, m in zip(shares, models, strict=True)) for name in models[0]}


def slerp(a: Weights, b: Weights, t: float) -> dict[str, Tensor]:
    """Each tensor along the arc from a (t = 0) to b (t = 1): [sin((1-t) w) a + sin(t w) b] / sin w.

    w is the angle between the flattened tensors; their lengths are not normalised. Nearly parallel tensors, and zero
    ones, are interpolated linearly.
    """
    same_shape(a, b)

    def between(x: Tensor, y: Tensor) -> Tensor:
        lengths = x.norm() * y.norm()
        cosine = (x * y).sum() / lengths if lengths > 0 else torch.ones(())
        if cosine.abs() > NEARLY_PARALLEL:
            return (1 - t) * x + t * y
        angle = torch.arccos(cosine)
        return (torch.sin((1 - t) * angle) * x + torch.sin(t * angle) * y) / torch.sin(angle)

    return {name: between(value, b[name]) for name, value in a.items()}


def task_arithmetic(base: Weights, models: Sequence[Weights], scale: float) -> dict[str, Tensor]:
    """theta_base + scale sum_i tau_i."""
    same_shape(base, *models)
    return {name: origin + scale * sum(m[name] - origin for m in models) for name, origin in base.items()}


def ties(base: Weights, models: Sequence[Weights], density: float, scale: float) -> dict[str, Tensor]:
    """theta_base + scale mean of the task vectors that agree: trim each to its largest entries, elect a sign for each
    parameter by their sum, average those that have it.

    A task vector is trimmed as a whole, over all tensors of the model, to the round(density n) entries of the largest
    size (and those equal to the smallest of them). A sum of 0 elects no sign and changes nothing.
    """
    same_shape(base, *models)
    least = [_smallest_kept(base, model, density) for model in models]

    def merged(name: str, origin: Tensor) -> Tensor:
        tau = torch.stack([model[name] - origin for model in models])
        tau = torch.stack([one * (one.abs() >= size) for one, size in zip(tau, least, strict=True)])
        agrees = (tau.sign() == tau.sum(0).sign()) & (tau != 0)
        return origin + scale * (tau * agrees).sum(0) / agrees.sum(0).clamp(min=1)

    return {name: merged(name, origin) for name, origin in base.items()}


def _smallest_kept(base: Weights, model: Weights, density: float) -> Tensor:
    """The size of the smallest entry of model - base that is among its largest `density` of all."""
    sizes = torch.cat([torch.zeros(0), *((model[name] - origin).abs().flatten() for name, origin in base.items())])
    if not len(sizes):
        return sizes.sum()
    kept = max(1, round(density * len(sizes)))
    return sizes.kthvalue(len(sizes) - kept + 1).values


def dare(
    base: Weights,
    models: Sequence[Weights],
    drop: float,
    scale: float,
    seed: int,
    rescale: Literal["expected", "realised"] = "expected",
) -> dict[str, Tensor]:
    """theta_base + scale sum_i tau_i', where each entry of tau_i is dropped with probability `drop`, the others grown.

    expected   by 1 / (1 - drop), so that the mean over masks is tau
    realised   by |tau|_1 / |tau'|_1 of the tensor, so that its size stays
    """
    same_shape(base, *models)
    generator = torch.Generator().manual_seed(seed)

    def thinned(tau: Tensor) -> Tensor:
        kept = tau * (torch.rand(tau.shape, generator=generator) >= drop)
        if rescale == "expected":
            return kept / (1 - drop)
        size = kept.abs().sum()
        return kept * (tau.abs().sum() / size) if size > 0 else kept

    thin = [{name: thinned(model[name] - base[name]) for name in base} for model in models]
    return {name: origin + scale * sum(t[name] for t in thin) for name, origin in base.items()}
