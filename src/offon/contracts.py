"""What a run rests on, measured with the user's own model on the user's own machine: `offon doctor --contracts MODEL`.

Each contract is a number and a bound. The rows are made of random tokens of the model, so that nothing depends on what
its tokenizer can express.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from offon.data.limits import LIMIT_S, overrun
from offon.engines.api import Request
from offon.engines.factory import create_engine
from offon.errors import Interrupted, OffonError
from offon.models.check import TOLERANCE, probe
from offon.models.model import Model
from offon.models.packed.layout import Layout
from offon.recipe.fields import NodeSettings, sampling_of
from offon.runs import RunDirectory
from offon.runs.artefacts import locate
from offon.tasks.sandbox.box import Limits, run, tried
from offon.train.build import build_stage
from offon.train.loop import run_stage
from offon.train.models import ModelSet
from offon.train.optimizer_step import accumulate, apply, make_optimizer
from offon.train.scoring import weigh
from offon.train.state import TrainState
from offon.types import Group, Item, Sampling, Source, Trajectory
from offon.types.batch import Batch

LONGEST = 29  # tokens of a row
GRADIENT = 1e-4  # of a tensor's norm: float32 sums in another order
DRAWN = 16  # tokens of a response


@dataclass(frozen=True)
class Contract:
    """name: what is promised. measured: in words. number: null where it could not be measured. bound: the number may
    not be above it. holds: null where it does not apply to this model or machine."""

    name: str
    measured: str
    number: float | None
    bound: float
    holds: bool | None


def contracts(model: str | Path, progress: Callable[[str], None] = lambda name: None) -> Iterator[Contract]:
    """Every contract, one after another; one that raises does not hold, and says why."""
    model = locate(str(model))
    loaded = Model.load(model)
    checks: Mapping[str, Callable[[], tuple[str, float, float]]] = {
        "packed equals unpacked": partial(_packing, loaded),
        "sampled equals scored": partial(_sampling, loaded),
        "micro-batches change nothing": partial(_micro_batches, loaded),
        "a rate of 0 moves nothing": partial(_zero_rate, loaded),
        "a stop changes nothing": partial(_resuming, model, loaded),
        "chat template within limits": partial(_template, loaded),
        "the sandbox holds": _sandbox,
    }
    for name, check in checks.items():
        progress(name)
        try:
            measured, number, bound = check()
        except NotApplicable as why:
            yield Contract(name, str(why), None, 0.0, None)
        except Exception as error:
            words = error.what if isinstance(error, OffonError) else f"{type(error).__name__}: {error}"
            yield Contract(name, words, None, 0.0, False)
        else:
            yield Contract(name, measured, number, bound, number <= bound)


class NotApplicable(Exception):
    """A contract about something that this model or machine does not have."""


# ---- scoring and sampling


def _rows(model: Model) -> list[tuple[list[int], list[int]]]:
    longest = min(LONGEST, getattr(model.config, "max_position_embeddings", None) or LONGEST)
    return probe(model.vocabulary, longest)


def _tolerance(model: Model) -> float:
    return max(TOLERANCE, 16 * torch.finfo(model.dtype).eps)


@torch.no_grad()
def _packing(model: Model) -> tuple[str, float, float]:
    rows = _rows(model)
    together = model.logp(Layout.of(rows)).split([len(answer) for _, answer in rows])
    gaps = []
    for (prompt, answer), ours in zip(rows, together, strict=True):
        ids = torch.tensor([prompt + answer], device=model.device)
        logits = model.spoken.only(model.core(input_ids=ids, use_cache=False).logits[0].float())
        alone = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]
        gaps.append(float((alone - ours).abs().max()))
    how = "packed" if model.packed else "padded"
    return f"{len(rows)} rows {how}: {max(gaps):.1e} nats off", max(gaps), _tolerance(model)


@torch.no_grad()
def _sampling(model: Model) -> tuple[str, float, float]:
    prompts = [prompt for prompt, _ in _rows(model)]
    requests = [Request(tuple(p), Sampling(max_tokens=DRAWN), (i,)) for i, p in enumerate(prompts)]
    drawn = create_engine().generate(requests, model)
    rows = [(prompt, list(one.tokens)) for prompt, one in zip(prompts, drawn, strict=True)]
    scored = model.logp(Layout.of(rows)).cpu()
    gap = float((scored - torch.cat([torch.tensor(one.logp) for one in drawn])).abs().max())
    return f"{len(scored)} tokens of {len(rows)} responses: {gap:.1e} nats", gap, _tolerance(model)


# ---- training


def _groups(model: Model) -> list[Group]:
    groups = []
    for index, (prompt, answer) in enumerate(_rows(model)):
        group = Group(item=Item(id=str(index), prompt="a random prompt"), views={"prompt": tuple(prompt)})
        groups.append(group.add(Trajectory.of(answer, group.prompt, Source.EXTERNAL, id=f"row/{index}")))
    return groups


def _stage(model: Model, init: str | Path, **changes: Any) -> tuple[NodeSettings, Any]:
    usual = {"init": str(init), "steps": 2, "prompts_per_step": 2, "learning_rate": 1e-3, "save_steps": 100}
    settings = NodeSettings(**{**usual, **changes})
    return settings, build_stage("sft", {"data": _groups(model)}, {}, [], sampling_of(settings), model.tokenizer)


def _gradient(model: Model, learner: Any, max_tokens: int | None) -> dict[str, torch.Tensor]:
    batch = weigh(Batch.of(_groups(model)), learner.terms)
    model.hf.zero_grad(set_to_none=True)
    accumulate(lambda ref: model, learner, batch, {term.name: 1.0 for term in learner.terms}, max_tokens)
    return {name: p.grad.clone() for name, p in model.train_parameters().items() if p.grad is not None}


def _micro_batches(model: Model) -> tuple[str, float, float]:
    learner = _stage(model, ".")[1].main
    whole, split = (_gradient(model, learner, limit) for limit in (None, 1))
    floor = 1e-2 * max(float(tensor.norm()) for tensor in whole.values())
    gap = max(float((whole[name] - split[name]).abs().max() / max(float(whole[name].norm()), floor)) for name in whole)
    return f"1 against 5: {gap:.1e} of a tensor's norm", gap, max(GRADIENT, _tolerance(model))


def _zero_rate(model: Model) -> tuple[str, float, float]:
    parameters, before = model.train_parameters(), model.fingerprint()
    optimizer = make_optimizer(parameters, weight_decay=0.1)
    _gradient(model, _stage(model, ".")[1].main, None)
    apply(optimizer, parameters, 0.0, 1.0)
    moved = float(model.fingerprint() != before)
    return "weights are bit-equal" if not moved else "weights moved", moved, 0.0


def _resuming(path: str | Path, model: Model) -> tuple[str, float, float]:
    settings, stage = _stage(model, path)

    def weights(run: Path, stops: tuple[int | None, ...]) -> dict[str, torch.Tensor]:
        for stop in stops:
            with RunDirectory.create(run, recipe_text="", resume=True) as opened:
                node = opened.node("stage")
                checkpoint = node.latest_checkpoint()
                held = ModelSet(stage, path, {}, checkpoint=checkpoint.path if checkpoint else None)
                state = TrainState(
                    node, held, _groups(model), settings, interrupted=lambda: state.state.step == stop  # noqa: B023
                )  # fmt: skip
                try:
                    run_stage(stage, state)
                except Interrupted:
                    continue
        return {name: p.detach().cpu() for name, p in held.learner.train_parameters().items()}

    with tempfile.TemporaryDirectory(prefix="offon-contracts-") as folder:
        straight, stopped = weights(Path(folder, "a"), (None,)), weights(Path(folder, "b"), (1, None))
    gap = max(float((straight[name] - stopped[name]).abs().max()) for name in straight)
    return "weights are bit-equal after a stop" if not gap else f"weights differ by {gap:.1e}", gap, 0.0


# ---- templates and boxes


def _template(model: Model) -> tuple[str, float, float]:
    if model.tokenizer is None or not model.tokenizer.chat_template:
        raise NotApplicable("it has no chat template")
    chat = [{"role": role, "content": "..."} for _ in range(50) for role in ("user", "assistant")]
    started = time.perf_counter()
    if why := overrun(partial(model.tokenizer.apply_chat_template, chat, tokenize=False)):
        return why, LIMIT_S + 1, LIMIT_S
    seconds = time.perf_counter() - started
    return f"100 turns in {seconds:.2f} s", seconds, LIMIT_S


ATTACKS = """
import json, os, socket, sys
port, secret = int(sys.argv[1]), sys.argv[2]
got = []
def attempt(name, what):
    try:
        if what(): got.append(name)
    except BaseException:
        pass
attempt("network", lambda: socket.create_connection(("127.0.0.1", port), 2))
attempt("files", lambda: open(secret).read())
attempt("environment", lambda: "OFFON_CANARY" in os.environ)
attempt("processes", lambda: len([name for name in os.listdir("/proc") if name.isdigit()]) > 8)
attempt("writing", lambda: open(os.path.join(os.path.dirname(secret), "written"), "w"))
print(json.dumps(got))
"""
ATTEMPTS = 5


def _sandbox() -> tuple[str, float, float]:
    ways = [how for how, problem in tried().items() if not problem]
    if not ways:
        raise NotApplicable("; ".join(f"{how}: {problem}" for how, problem in tried().items()))
    with tempfile.TemporaryDirectory(prefix="offon-outside-") as folder, socket.create_server(("127.0.0.1", 0)) as door:
        secret = Path(folder, "secret")
        secret.write_text("outside")
        arguments = [str(door.getsockname()[1]), str(secret)]
        ended = run([sys.executable, "-I", "-S", "-c", ATTACKS, *arguments], how=ways[0], limits=Limits(wall_s=30))
        out = json.loads(ended.output)
    measured = f"{', '.join(out)} got out" if out else f"{ATTEMPTS} ways out tried: none"
    return f"{measured} ({ways[0]})", float(len(out)), 0.0
