"""What collectors need to run without a run: a context over one or more models."""

from __future__ import annotations

from collections.abc import Mapping

from offon.data import Renderer
from offon.engines.api import Request
from offon.engines.native import NativeEngine
from offon.models.model import Model
from offon.parts.context import Context, Prompted, Step
from offon.parts.models import SELF, SELF_START
from offon.types import Producer, Source, Trajectory


class Sampler:
    """Stands for Context.generate, and remembers what it was asked: one list of requests a call."""

    def __init__(self, learner: Model, others: Mapping[str, Model] | None = None):
        self.models = {"self": learner, **(others or {})}
        self.calls: list[list[Prompted]] = []

    def __call__(self, prompts, ref) -> list[Trajectory]:
        self.calls.append(list(prompts))
        model = self.models[str(ref)]
        requests = [Request(p.seen, p.sampling, p.key) for p in prompts]
        own = ref == SELF_START or SELF in ref.walk()  # as SamplerContext.generate says
        source = Source.LEARNER if own else Source.TEACHER
        answers = [
            p.answered(c.tokens, source, c.logp).replace(
                producer=Producer(model=str(ref), sampling=p.sampling), id="/".join(map(str, p.key[2:])),
                tags=frozenset({"truncated"} if c.stop == "length" else ()),
            )
            for p, c in zip(prompts, NativeEngine().generate(requests, model), strict=True)
        ]  # fmt: skip
        return [t.replace(text=model.tokenizer.decode(t.last_turn, skip_special_tokens=True)) for t in answers]

    def context(self, *, index: int = 0, seed: int = 0) -> Context:
        render = Renderer(self.models["self"].tokenizer)
        return Context(
            self, lambda groups, need: list(groups), lambda where: [], Step(index, 10, seed, "node", render=render)
        )
