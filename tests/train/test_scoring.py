"""Scores of two models side by side."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from offon.models.model import Model
from offon.parts import Artefact, divergence
from offon.train.scoring import score, weigh
from offon.types.batch import Batch
from tests.rounding import FLOAT32, close
from tests.support import World, demonstrations, model, tokenizer


def padded(of: Model, rows: int) -> Model:
    """The same model with more rows in its embedding than there are tokens, as larger siblings of a family have."""
    config = type(of.config)(**{**of.config.to_dict(), "vocab_size": of.vocabulary + rows})
    hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = {name: tensor.clone() for name, tensor in of.hf.state_dict().items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], torch.randn(rows, weights[name].shape[1])])
    hf.load_state_dict(weights)
    return Model.wrap(hf, tokenizer(), device="cpu")


def test_rows_without_a_token_do_not_count_in_a_divergence():
    """Teacher and student may pad one vocabulary to different sizes, whichever is larger."""
    term = divergence(to=Artefact("teacher"))
    batch = weigh(Batch.of(demonstrations()), [term])

    def value(student, teacher):
        world = World(student, {"teacher": teacher})
        return term.units(batch, score(world, batch, term.needs))[0].detach()

    same = value(model(0), model(2))
    assert close(value(model(0), padded(model(2), 3)), same, FLOAT32)
    assert close(value(padded(model(0), 2), model(2)), same, FLOAT32)
