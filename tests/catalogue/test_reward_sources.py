"""Reward models by hand and as trained; checkers, judges (local and served) and their sums."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from offon.catalogue import registry
from offon.collect import refill, rollouts, verify
from offon.collect.signals.judge import Judge, grade, preference
from offon.collect.signals.rewards import Checker, Reward, RewardModel
from offon.engines.endpoint import Endpoint
from offon.errors import ConfigError, EngineError
from offon.models.model import Model
from offon.parts.context import Context, Step
from offon.parts.models import SELF_START, Artefact, Need
from offon.parts.stage import Stage
from offon.train.scoring import score_buffer, step_loss, weigh
from offon.types import Sampling, Source, Trajectory, Verdict
from offon.types.batch import Batch
from tests.catalogue.cases import saved, scorer
from tests.rounding import FLOAT32_SUM
from tests.support import ParityTask, preference_pairs, prompt_group, tokenizer
from tests.train.test_learners import run

pytestmark = pytest.mark.slow

SCORE = Need("score")


def row(name, *args, **arguments):
    return registry.get(name).function(*args, **arguments)


# --- training ------------------------------------------------------------------------------------------------------


def loss_of(scores, margins=None, **arguments):
    """The row's loss where the two responses of each pair score (winner, loser) at their last token."""
    pairs = preference_pairs()[: len(scores)]
    if margins:
        pairs = [
            g.replace(comparisons=tuple(type(c)(c.winner, c.loser, m) for c in g.comparisons))
            for g, m in zip(pairs, margins, strict=True)
        ]
    (learner,) = row("train_reward_model", pairs, **arguments).validate().learners
    batch = weigh(Batch.of(pairs), learner.terms)
    column, flat = torch.full((batch.n_tokens,), 7.0, dtype=torch.float64), [s for pair in scores for s in pair]
    for i, value in enumerate(flat):
        column[(batch.sequence == i).nonzero()[-1]] = value  # 7 everywhere else: only the last token is read
    total, metrics = step_loss(learner.terms, batch, {SCORE: column}, {t.name: float(t.coef) for t in learner.terms})
    return float(total), metrics


def test_bradley_terry_by_hand():
    """Differences 0 and 2: (log 2 + log(1 + e^-2)) / 2; centring adds 0.01 * ((1 + 1)^2 + (1 - 1)^2) / 2."""
    plain = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    assert loss_of([(1, 1), (1, -1)], centre=0.0)[0] == pytest.approx(plain)
    assert loss_of([(1, 1), (1, -1)])[0] == pytest.approx(plain + 0.01 * 4 / 2)


def test_a_margin_is_subtracted_from_the_difference():
    expected = (math.log(1 + math.exp(1)) + math.log(1 + math.exp(0.25))) / 2
    assert loss_of([(0, 0), (0, 0)], margins=[1.0, 0.25], margin="data", centre=0.0)[0] == pytest.approx(expected)
    assert loss_of([(1, 0.5)], margin=0.5, centre=0.0)[0] == pytest.approx(math.log(2))


def test_a_shift_of_all_scores_is_seen_by_centring_only():
    scores, shifted = [(1.0, 0.3), (-0.2, 0.4)], [(4.0, 3.3), (2.8, 3.4)]
    assert loss_of(scores, centre=0.0)[0] == pytest.approx(loss_of(shifted, centre=0.0)[0])
    assert loss_of(shifted)[0] > loss_of(scores)[0] + 0.1


def test_accuracy_is_that_of_the_pairs():
    assert loss_of([(1, 0), (0, 1), (2, -1), (0, 0)])[1]["rewards/accuracies"] == (2.5, 4.0)


def test_training_separates_the_pairs_and_the_result_is_what_transformers_reads(tmp_path):
    """A few steps on pairs; then our score of each response is transformers' logit, and chosen is above rejected."""
    pairs = preference_pairs()
    stage = row("train_reward_model", pairs)
    runtime = run(tmp_path / "run", stage, saved(0), prompts=pairs, steps=30, learning_rate=3e-3)
    runtime.models.save_learners(tmp_path / "rm")
    assert runtime.node.metrics()[-1]["rewards/accuracies"] > 0.9
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    ours = score_buffer(Model.load(tmp_path / "rm", device="cpu"), pairs, Need("score", when="buffer"), 100)
    for group in ours:
        for member in group.members:
            ids = torch.tensor([[*member.prefix(), *member.tokens.tolist()]])
            (expected,) = theirs(input_ids=ids).logits.flatten().tolist()
            assert member.token_signals["score@self"][-1] == pytest.approx(expected, abs=FLOAT32_SUM)


# --- use -----------------------------------------------------------------------------------------------------------


def groups(n=3, members=2):
    made = []
    for draw, item in enumerate(ParityTask().items("train")[:n]):
        group = prompt_group(item).replace(draw=draw)
        for i in range(members):
            tokens = [3 + draw + i, 4 + i, 1]
            text = tokenizer().decode(tokens, skip_special_tokens=True)
            group = group.add(Trajectory.of(tokens, group.prompt, Source.LEARNER, text=text, id=f"{draw}/{i}"))
        made.append(group)
    return made


def context(models=None, answer=None) -> Context:
    def generate(prompts, ref):
        return [Trajectory.of([1], p.prefix, Source.TEACHER, text=answer(p, ref)) for p in prompts]

    def scored(found, need):
        return score_buffer(models(need.model), found, need, 100)

    return Context(generate, scored, lambda where: [], Step(0, 10, 0, "node", render=Characters()))


class Characters:
    """A renderer for questions in English, which the tiny tokenizer cannot express: one token per character."""

    tokenizer = tokenizer()

    def prompt(self, text):
        return tuple(map(ord, text))


def question(prompted) -> str:
    return "".join(map(chr, prompted.prefix))


@dataclass(frozen=True)
class Fixed:
    """A checker with an opinion on each text; None where it has none."""

    verdicts: dict

    def verify(self, pairs):
        return [Verdict(self.verdicts.get(text, 0.0)) for _, text in pairs]


def test_a_reward_model_gives_its_number_at_the_last_token():
    reward = Model.load(scorer(4), device="cpu")
    part = Reward({"rm": RewardModel(Artefact("rm"))}, {"rm": 1.0})
    theirs = AutoModelForSequenceClassification.from_pretrained(scorer(4))
    for group in part(context(lambda ref: reward), groups()):
        for member in group.members:
            ids = torch.tensor([[*member.prefix(), *member.tokens.tolist()]])
            expected = float(theirs(input_ids=ids).logits.detach())
            assert member.signals["reward"] == pytest.approx(expected, abs=FLOAT32_SUM) == member.signals["reward:rm"]
            assert not member.token_signals, "the whole column is not kept"


def test_a_weighted_sum_keeps_every_reward_and_sets_aside_what_one_could_not_score():
    first = [g.members[0].text for g in groups()]
    a, b = Checker(Fixed({first[0]: 1.0, first[1]: None})), Checker(Fixed(dict.fromkeys(first, 4.0)))
    done = Reward({"a": a, "b": b}, {"a": 1.0, "b": 0.5})(context(), groups())
    assert [[m.signals["reward"] for m in g.members] for g in done] == [[3.0, 0.0], [0.0], [2.0, 0.0]]
    assert done[0].members[0].signals == {"reward": 3.0, "reward:a": 1.0, "reward:b": 4.0}
    ((member, reason),) = done[1].dropped
    assert reason == "unscored" and member.signals == {"reward": None, "reward:a": None, "reward:b": 4.0}


def test_a_response_is_rewarded_once():
    part = Reward({"a": Checker(Fixed({}))}, {"a": 1.0})
    before = [g.map(lambda m: m.with_signals(reward=0.25)) for g in groups()]
    assert {m.signals["reward"] for g in part(context(), before) for m in g.members} == {0.25}


def parts(stage: Stage) -> list[str]:
    return [str(part) for part in stage.collect.everything if isinstance(part, Reward)]


def test_sources_take_the_place_of_the_checker_or_stand_beside_it():
    base = row("grpo", ParityTask())
    alone = row("reward_model", base, model="rm")
    beside = row("verifier", row("reward_model", base, model="rm", weight=0.5), check="regex", pattern="x", weight=0.1)
    weighed = row("reward_weights", beside, weights={"verifier": 0.0, "reward_model": 1.0, "regex": 0.2})
    assert parts(alone) == ["reward(1 reward_model)"]
    assert parts(beside) == ["reward(1 verifier + 0.5 reward_model + 0.1 regex)"]
    assert parts(weighed) == ["reward(0 verifier + 1 reward_model + 0.2 regex)"]
    assert Artefact("rm") in alone.validate().models and alone.needs[0] == Need("score", Artefact("rm"), when="buffer")


def test_a_source_reaches_checkers_inside_other_collectors():
    stage = row("grpo", ParityTask()).replace(collect=refill(rollouts(ParityTask(), 2) | verify(ParityTask())))
    assert parts(row("reward_model", stage, model="rm")) == ["reward(1 reward_model)"]


def test_what_cannot_be_weighed_or_replaced_is_refused():
    with pytest.raises(ConfigError, match="no checker|asks no checker"):
        row("reward_model", row("sft", []), model="rm")
    with pytest.raises(ConfigError, match="verifier, b"):
        row("reward_weights", row("grpo", ParityTask()), weights={"verifier": 1.0, "b": 1.0})
    with pytest.raises(ConfigError, match="served"):
        row("judge", row("grpo", ParityTask()), rubric="r", url="http://localhost:1/v1")


# --- judges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("Score: 7", 0.7), ("It scores: 3 at first.\nScore: 10", 1.0), ("**Score:** 2.5", 0.25), ("score: 11", None),
        ("Score: -1", None), ("seven", None), (None, None), ("", None),
    ],
)  # fmt: skip
def test_a_grade_is_the_last_score_on_the_scale(answer, expected):
    assert grade(answer, 0, 10) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    "answer, expected", [("Better: A", 1.0), ("better: **B**", 0.0), ("Better: tie", 0.5), ("A", None), (None, None)]
)
def test_a_preference_is_what_is_said_last(answer, expected):
    assert preference(answer) == expected


def test_a_local_judge_reads_rubric_prompt_and_response():
    asked = []

    def answer(prompted, ref):
        asked.append((question(prompted), ref, prompted.sampling.temperature))
        return "Score: 5"

    judge = Judge(rubric="w7 w7", by=SELF_START)
    assert judge(context(answer=answer), groups(2)) == [[0.5, 0.5], [0.5, 0.5]]
    assert judge.samplers == (SELF_START,) and len(asked) == 4
    text, ref, temperature = asked[0]
    assert text.startswith("w7 w7") and groups(2)[0].members[0].text in text and ref == SELF_START and temperature == 0


def test_pairs_are_judged_in_both_orders_so_that_a_favoured_place_cancels():
    """A judge that always says A: every response wins half of its comparisons. One that knows: shares 1, 1/2, 0."""
    favours_a = Judge(rubric="r", by=SELF_START, compare="pairs")
    three = groups(1, members=3)
    assert favours_a(context(answer=lambda p, ref: "Better: A"), three) == [[0.5, 0.5, 0.5]]

    places = {m.text: i for i, m in enumerate(three[0].members)}

    def knows(prompted, ref):
        _, _, shown = question(prompted).partition("[Response A]\n")
        a, _, rest = shown.partition("\n\n[Response B]\n")
        return "Better: A" if places[a] < places[rest.split("\n")[0]] else "Better: B"

    assert favours_a(context(answer=knows), three) == [[1.0, 0.5, 0.0]]


def test_an_unreadable_judgement_is_no_score():
    part = Reward({"judge": Judge(rubric="r", by=SELF_START)}, {"judge": 1.0})
    done = part(context(answer=lambda p, ref: "well"), groups(1))
    assert not done[0].members and {reason for _, reason in done[0].dropped} == {"unscored"}


class FakeServer(BaseHTTPRequestHandler):
    """Answers by the plan of its server: text, a status code, "slow", "garbage"; the last entry goes on for ever."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append((self.path, body, self.headers.get("Authorization")))
            step = self.server.plan.pop(0) if len(self.server.plan) > 1 else self.server.plan[0]
        if step == "slow":
            threading.Event().wait(1.0)
        if isinstance(step, int):
            self.send_error(step)
            return
        content = "not json" if step == "garbage" else json.dumps({"choices": [{"message": {"content": step}}]})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """A function from a plan to (endpoint, the requests it saw)."""
    running = []

    def serve(*plan, **options):
        http = ThreadingHTTPServer(("127.0.0.1", 0), FakeServer)
        http.plan, http.seen, http.lock = list(plan), [], threading.Lock()
        threading.Thread(target=http.serve_forever, daemon=True).start()
        running.append(http)
        settings = {"wait_s": 0.01, "timeout_s": 5.0, "at_once": 1, **options}
        return Endpoint(url=f"http://127.0.0.1:{http.server_port}/v1", model="tiny", **settings), http.seen

    yield serve
    for http in running:
        http.shutdown()


def test_a_served_judge_is_asked_as_openai_s(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "abc")
    endpoint, seen = server("Score: 8", key_env="MY_KEY")
    assert Judge(rubric="be kind", by=endpoint)(context(), groups(1)) == [[0.8, 0.8]]
    path, body, key = seen[0]
    assert path == "/v1/chat/completions" and key == "Bearer abc" and body["model"] == "tiny"
    assert body["temperature"] == 0.0 and "be kind" in body["messages"][0]["content"]
    assert groups(1)[0].members[0].text in body["messages"][0]["content"]


@pytest.mark.parametrize("failure", [500, 429, "garbage"])
def test_what_may_pass_is_tried_again(server, failure):
    endpoint, seen = server(failure, failure, "Score: 1")
    assert endpoint.ask(["q"], Sampling()) == ["Score: 1"] and len(seen) == 3


def test_an_answer_that_never_comes_is_none_and_the_others_count(server):
    endpoint, _ = server("Score: 1", 503, 503, "Score: 2", retries=1)
    assert endpoint.ask(["a", "b", "c"], Sampling()) == ["Score: 1", None, "Score: 2"]


def test_a_slow_answer_is_given_up(server):
    endpoint, _ = server("Score: 1", "slow", "Score: 2", retries=0, timeout_s=0.2)
    assert endpoint.ask(["a", "b", "c"], Sampling()) == ["Score: 1", None, "Score: 2"]


def test_a_refusal_and_silence_stop_the_run_with_the_reason(server):
    endpoint, _ = server(401)
    with pytest.raises(EngineError, match="401"):
        endpoint.ask(["q"], Sampling())
    endpoint, _ = server(500, retries=1)
    with pytest.raises(EngineError, match="no answer to any of 2"):
        endpoint.ask(["a", "b"], Sampling())
    nobody = Endpoint(url="http://127.0.0.1:9/v1", model="m", retries=0)
    with pytest.raises(EngineError, match="no answer"):
        nobody.ask(["q"], Sampling())


def test_a_regex_is_a_format_reward():
    stage = row("verifier", row("grpo", ParityTask()), check="regex", pattern="w1 w2", weight=0.5)
    (part,) = [p for p in stage.collect.everything if isinstance(p, Reward)]
    (group,) = groups(1)
    group = group.replace(item=replace(group.item, columns={"answer": "another"}))
    assert [m.text for m in group.members] == ["w1 w2", "w2 w3"]
    assert part.sources["regex"](context(), [group]) == [[1.0, 0.0]]
