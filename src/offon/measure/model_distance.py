"""Distances between two models over responses that one of them gave: what drift and transfer are measured from.

Of each prompt the first `RESPONSES` responses are read, by two models, without sampling: at the defaults an eighth of a
probe's tokens. What was read is kept in the run by everything it depends on, and never read again.

Axes: P prompts, n responses of one, M tokens of some responses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offon.behavior.change.relative_support import Scored
from offon.errors import Interrupted
from offon.maths.vocabulary import reverse_kl
from offon.measure.paired_responses import SCORED_TOKENS, token_logp
from offon.models.loading import load_tokenizer
from offon.models.model import Model
from offon.runs import RunDirectory
from offon.runs.artefacts import Artefact, digest
from offon.train.scoring import Distribution, layout_of
from offon.types import RIGHT, Group, Trajectory

RESPONSES = 16  # of a prompt: the spread between prompts is what limits these numbers


class LoadedModels:
    """The models of one stage's measurement, each loaded when first needed and held until it ends: at most the one
    before, the one after and its teachers. stop: whether somebody wants the run to end."""

    def __init__(self, stop: Callable[[], bool]):
        self.stop, self.held = stop, {}

    def __call__(self, artefact: Artefact) -> Model:
        if self.stop():
            raise Interrupted("interrupted while scoring", kept="finished stages and probes; use --resume")
        if artefact.hash not in self.held:
            self.held[artefact.hash] = Model.load(artefact.path)
        return self.held[artefact.hash]


class ModelDistance:
    """Two models of a run that read the same responses of the first. Every result is a mapping of plain lists, kept in
    RUN/scores."""

    def __init__(self, run: RunDirectory, load: LoadedModels, author: Artefact, reader: Artefact):
        self.run, self.load, self.author, self.reader = run, load, author, reader

    @property
    def models(self) -> tuple[Model, Model]:
        return self.load(self.author), self.load(self.reader)

    @cached_property
    def same_tokens(self) -> bool:
        """Whether every token id means the same to both; read from the tokenizers alone."""
        mine, theirs = (load_tokenizer(artefact.path).get_vocab() for artefact in (self.author, self.reader))
        return mine == theirs

    def distances(self, groups: Sequence[Group]) -> dict[str, list[float]]:
        """Over the author's responses, by prompt: KL(author || reader) in nats, summed over their states; at how many
        states both have the same likeliest token; the number of tokens and of responses."""

        def measured() -> dict[str, list[float]]:
            read = [group.members[:RESPONSES] for group in groups]
            distance_n2 = distances(*self.models, [member for members in read for member in members])
            ends = np.cumsum([len(members) for members in read])[:-1]
            sums_P2 = np.array([rows.sum(axis=0) for rows in np.split(distance_n2, ends)])
            return {
                "kl_nats": sums_P2[:, 0].tolist(),
                "agreeing": sums_P2[:, 1].tolist(),
                "tokens": [sum(map(len, members)) for members in read],
                "responses": [len(members) for members in read],
            }

        return self.kept("distances", groups, measured)

    def successes(self, groups: Sequence[Group]) -> list[Scored]:
        """By prompt, of the author's first successes, the log-ratio author over reader."""

        def measured() -> dict[str, list[list[float]]]:
            author, reader = self.models
            chosen = [_successes(group)[:RESPONSES] for group in groups]
            ratios = log_ratio(author, reader, [member for members in chosen for member in members])
            ends = np.cumsum([len(members) for members in chosen])[:-1]
            return {"log_ratio": [part.tolist() for part in np.split(ratios, ends)]}

        rows = self.kept("successes", groups, measured)["log_ratio"]
        return [Scored(np.array(row), np.ones(len(row))) for row in rows]

    def kept(self, what: str, groups: Sequence[Group], measure: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """What was read of these groups, from RUN/scores where it was read before."""
        read = [group.members[0].id for group in groups if group.members]  # names the probe, and so the samples
        name = f"scores/{digest([what, self.author.hash, self.reader.hash, read, RESPONSES])}.json"
        content = self.run.read_json(name)
        if content is None:
            content = measure()
            self.run.write_json(name, content)
        return content


def log_ratio(author: Model, reader: Model, members: Sequence[Trajectory]) -> np.ndarray:
    """[n] log-probability of each response under one model minus that under the other, both by the same code."""
    if not members:
        return np.zeros(0)
    pairs = [(member.prefix("sample"), tuple(member.tokens.tolist())) for member in members]
    temperature = members[0].producer.sampling.temperature  # of a probe: one for all
    mine, theirs = ([float(row.sum()) for row in token_logp(model, pairs, temperature)] for model in (author, reader))
    return np.subtract(mine, theirs)


@torch.no_grad()
def distances(author: Model, reader: Model, members: Sequence[Trajectory]) -> np.ndarray:
    """[n, 2] of each response, summed over its states: KL(author || reader) over the whole vocabulary in nats, at the
    temperature that sampled it, and the states at which both have the same likeliest token. Both models by the same
    code, so that a model is at distance 0 from itself exactly. At most `SCORED_TOKENS` are read at once, prompts
    included."""
    sums: list[np.ndarray] = []
    size = max(1, SCORED_TOKENS // max(len(member.prefix("sample")) + len(member) for member in members))
    for first in range(0, len(members), size):
        part = members[first : first + size]
        layout = layout_of(part, "sample")
        temperature_M = torch.tensor([m.producer.sampling.temperature for m in part])[layout.sequence]
        sides = [Distribution(model, model.hidden(layout)) for model in (author, reader)]
        distance_M2 = sides[0].compare(sides[1], _kl_and_agreement, torch.arange(layout.n_targets), temperature_M)
        sums += [piece.sum(dim=0).numpy() for piece in distance_M2.double().cpu().split(layout.lengths)]
    return np.array(sums)


def _kl_and_agreement(log_p_MV: Tensor, log_q_MV: Tensor) -> Tensor:
    agree_M = log_p_MV.argmax(-1) == log_q_MV.argmax(-1)
    return torch.stack([reverse_kl(log_p_MV, log_q_MV), agree_M.to(log_p_MV.dtype)], -1)


def _successes(group: Group) -> list[Trajectory]:
    return [m for m in group.members if m.signals["reward"] is not None and m.signals["reward"] >= RIGHT]
