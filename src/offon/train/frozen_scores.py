"""Log-probs of rows that do not change under models that do not change: scored at first sight, then remembered.

A row of data comes back with every pass over it, and its reference is the same each time. What is remembered is named
by content (the model's weights, the tokens of the view and of the response, the temperature), so that it serves other
passes, other nodes and a resumed run. A run keeps it under `scores/`, which may be deleted while nothing runs: a score
is then computed anew, equal up to rounding.

Legend: M response tokens of a (micro-)batch.
"""

from __future__ import annotations

import hashlib
import shlex
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from offon.errors import StorageError
from offon.parts.models import Artefact, ModelRef, Need, Start
from offon.runs import atomic
from offon.types.batch import Batch

KEY_BYTES = 16
MOST_TOKENS = 2**26  # 256 MiB of scores; beyond, rows are scored whenever they come


Remembered = Callable[[str, str, Batch, Callable[[Batch], Tensor]], Tensor]  # `FrozenScores.logp` of one model


class FrozenScores:
    """directory: where scores are kept between processes; None: in memory only. node: whose they are. process: each of
    several has its own.

    computed   tokens that were scored        remembered   tokens that were not, because they had been
    """

    def __init__(self, directory: Path | None = None, node: str = "", process: int = 0):
        self._directory, self._node, self._process = directory, node, process
        self._scores: dict[bytes, np.ndarray] = {}
        self._new: list[bytes] = []
        self.computed = self.remembered = self._tokens = 0

    def rewind(self, step: int) -> None:
        """Read what is kept, but what this node kept after a step: a resumed run then scores what it would have scored,
        and has spent as much."""
        for path in sorted(self._directory.glob(f"{self._process}-*.npz")) if self._directory else ():
            node, _, number = path.stem.partition("-")[2].rpartition("-")
            if node == self._node and int(number) > step:
                path.unlink()
            else:
                self._read(path)

    def logp(self, model: str, view: str, place: str, batch: Batch, compute: Callable[[Batch], Tensor]) -> Tensor:
        """[M] what `compute` gives for a batch of rows under the model of this fingerprint, computed for those rows
        alone that were not seen before."""
        rows = zip(batch.trajectories, batch.temperature.tolist(), strict=True)
        keys = [_key(f"{model} {place} {temperature}", row.prefix(view), row.tokens) for row, temperature in rows]
        missing = [i for i, key in enumerate(keys) if key not in self._scores]
        fresh: dict[int, Tensor] = {}
        if missing:
            part = batch if len(missing) == len(keys) else batch.take(missing)
            lengths = [len(batch.trajectories[i]) for i in missing]
            fresh = dict(zip(missing, compute(part).detach().float().cpu().split(lengths), strict=True))
            self.computed += sum(lengths)
        scores = [fresh[i].numpy() if i in fresh else self._scores[key] for i, key in enumerate(keys)]
        self.remembered += sum(map(len, scores)) - sum(map(len, fresh.values()))
        for i, score in fresh.items():
            self._remember(keys[i], score.numpy().copy())
        return torch.from_numpy(np.concatenate(scores)).to(batch.sequence.device)

    def _remember(self, key: bytes, score: np.ndarray) -> None:
        if self._tokens + len(score) <= MOST_TOKENS:
            self._scores[key] = score
            self._tokens += len(score)
            self._new.append(key)

    def keep(self, step: int) -> None:
        """Write what is new, whole or not at all. Called before a checkpoint, so that a run that goes on from it finds
        every score that came before, to the last bit."""
        if self._directory is None or not self._new:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        scores = [self._scores[key] for key in self._new]
        columns = {
            "keys": np.frombuffer(b"".join(self._new), np.uint8).reshape(-1, KEY_BYTES),
            "lengths": np.array([len(score) for score in scores]),
            "scores": np.concatenate(scores),
        }
        target = self._directory / f"{self._process}-{self._node}-{step:06d}.npz"
        atomic.write_with(target, lambda temporary: _write(temporary, columns))
        self._new = []

    def _read(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as columns:
                pieces = np.split(columns["scores"], np.cumsum(columns["lengths"])[:-1])
                scores = dict(zip(map(bytes, columns["keys"]), pieces, strict=True))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            raise StorageError(
                f"the remembered scores in {path.name} are damaged",
                where=str(path),
                why=str(error).split("\n")[0][:200],
                fix=f"rm {shlex.quote(str(path))} and --resume, which computes them anew, equal up to rounding",
                kept="nothing was touched",
            ) from error
        self._scores |= scores
        self._tokens += sum(map(len, scores.values()))


def _write(path: Path, columns: dict[str, np.ndarray]) -> None:
    with Path(path).open("wb") as file:
        np.savez(file, allow_pickle=False, **columns)


def of_fixed_rows(ref: ModelRef, needs: Sequence[Need], batch: Batch) -> bool:
    """Whether this is about log-probs, under models that stay, of rows of data: responses that nobody samples anew."""
    stays = all(isinstance(part, Start | Artefact) for part in ref.walk() if not part.inside)
    return (
        stays
        and all(need.what == "logp" for need in needs)
        and all(trajectory.behavior_logp is None for trajectory in batch.trajectories)
    )


def _key(how: str, *parts: Sequence[int] | np.ndarray) -> bytes:
    digest = hashlib.blake2b(how.encode(), digest_size=KEY_BYTES)
    for tokens in parts:
        ids = np.asarray(tokens, np.int64)
        digest.update(len(ids).to_bytes(8, "little"))
        digest.update(ids.tobytes())
    return digest.digest()
