"""Next-token distributions level by level: what `offon.behavior.tree.enumerate_support` asks of a policy.

Axes: n rows of a level, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from offon.engines.decoders import CachedDecoder, ReplayDecoder
from offon.engines.native import evaluating
from offon.engines.sampling import Columns, log_distribution
from offon.errors import ConfigError
from offon.models.model import Model
from offon.types import Sampling
from offon.types.trajectory import Tokens


class Expansion:
    """A model under a sampler on one prompt. Keys and values of every row are kept, so that a level costs one token a
    row; the prompt is computed once."""

    def __init__(self, model: Model, prompt: Tokens, sampling: Sampling = Sampling()):
        if sampling.temperature == 0:
            raise ConfigError("a greedy sampler has one response", why="support is about a distribution")
        self.model, self.prompt, self.sampling = model, tuple(prompt), sampling

    def root(self) -> np.ndarray:
        with evaluating(self.model.hf), torch.inference_mode():
            self.decoder = CachedDecoder(self.model, 0) if self.model.packed else ReplayDecoder(self.model, 0)
            return self._log_p(self.decoder.bind(self.decoder.prefill([self.prompt])))

    def extend(self, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        with evaluating(self.model.hf), torch.inference_mode():
            self.decoder.fork(rows)
            return self._log_p(self.decoder.step(torch.from_numpy(tokens).to(self.model.device)))

    def _log_p(self, hidden: Tensor) -> np.ndarray:
        logits_nV = self.model.next_logits(hidden).double()
        return log_distribution(logits_nV, Columns.of([self.sampling] * len(hidden), hidden.device)).cpu().numpy()
