"""offon doctor --contracts: everything holds for a model that is sound, and what is planted is found by its name."""

from __future__ import annotations

import json

import pytest

from offon import contracts as module
from offon.cli.main import main
from offon.contracts import contracts
from offon.engines.factory import create_engine
from tests.support import model


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    sound = model(0)
    sound.tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    sound.save(path)
    return path


def verdicts(directory):
    return {contract.name: contract.holds for contract in contracts(directory)}


def test_everything_holds_on_a_table_of_one_screen_and_as_json(directory, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["doctor", "--contracts", str(directory)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and not any("BROKEN" in line for line in lines)
    assert main(["doctor", "--contracts", str(directory), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 7 and all(row["number"] <= row["bound"] for row in rows if row["holds"])


def test_an_engine_with_other_weights_is_found(directory, monkeypatch, capsys):
    engine, stale = create_engine(), model(5)

    class Stale:
        def generate(self, requests, policy, *rest):
            return engine.generate(requests, stale, *rest)

    monkeypatch.setattr(module, "create_engine", Stale)
    assert main(["doctor", "--contracts", str(directory)]) == 4
    captured = capsys.readouterr()
    assert "BROKEN" in captured.out and "sampled equals scored" in captured.err
    assert verdicts(directory)["packed equals unpacked"]


def test_weights_that_move_at_a_rate_of_0_are_found(directory, monkeypatch):
    monkeypatch.setattr(module, "apply", lambda optimizer, named, rate, norm: next(iter(named.values())).data.add_(1.0))
    assert verdicts(directory)["a rate of 0 moves nothing"] is False


def test_a_stop_that_forgets_the_optimizer_is_found(directory, monkeypatch):
    from offon.train.state import TrainState

    original = TrainState.restore

    def forgets(self):
        counters = original(self)
        for optimizer in self.optimizers.values():
            optimizer.state.clear()
        return counters

    monkeypatch.setattr(TrainState, "restore", forgets)
    assert verdicts(directory)["a stop changes nothing"] is False


def test_a_template_that_never_ends_is_found(directory, tmp_path, monkeypatch):
    endless = model(0)
    nested = "{% for a in range(10**5) %}{% for b in range(10**5) %}{% endfor %}{% endfor %}"
    endless.tokenizer.chat_template = nested
    endless.save(tmp_path / "m")
    monkeypatch.setattr(module, "overrun", lambda compute: module_overrun(compute, 0.3))
    assert verdicts(tmp_path / "m")["chat template within limits"] is False


module_overrun = module.overrun
