"""A response ends where its prompt says: at the model's own end tokens, and where the chat template ends a turn."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from offon.engines.api import Request
from offon.engines.native import NativeEngine
from offon.engines.stops import end_turns, stops_after
from offon.models.loading import LoraSpec
from offon.models.model import Model
from offon.types import Sampling
from tests.models.test_tokens import END, EOS, TEXT, tokenizer, wrapped

TURN = (5, 10, 11, END, 5)


def test_prompts_that_the_template_wrote_stop_at_the_end_of_a_turn_and_text_does_not():
    model = wrapped(tokenizer())
    assert stops_after(model, TURN) == (EOS, END) and stops_after(model, TEXT) == model.stop_ids == (EOS,)
    assert stops_after(wrapped(), TURN) == (EOS,)  # no tokenizer, no template
    assert stops_after(wrapped(tokenizer(template=None)), TURN) == (EOS,)


@pytest.mark.slow
def test_responses_end_where_their_own_prompt_says_whatever_stands_beside_them():
    """The weights are random: after text about 1 token in 80 is <end>, and nothing ends there."""
    model = wrapped(tokenizer())
    requests = [Request(p, Sampling(max_tokens=60), (i,)) for i in range(40) for p in (TURN, TEXT)]
    made = NativeEngine(max_slots=7).generate(requests, model)
    turns, texts = made[::2], made[1::2]
    assert any(END in one.tokens for one in turns) and any(END in one.tokens[:-1] for one in texts)
    assert all({END, EOS}.isdisjoint(one.tokens[:-1]) for one in turns)
    for one, ends in [*((one, (END, EOS)) for one in turns), *((one, (EOS,)) for one in texts)]:
        assert (one.stop == "stop") == (one.tokens[-1] in ends)


@pytest.mark.parametrize("lora", [None, LoraSpec(r=2)], ids=["weights", "adapter"])
def test_where_turns_were_trained_to_end_is_in_the_generation_config(tmp_path, lora):
    base = tmp_path / "base"
    wrapped(tokenizer()).save(base)
    model = Model.load(base, device="cpu", lora=lora)
    assert end_turns(model, [TEXT]) == () and model.stop_ids == (EOS,)
    assert end_turns(model, [TEXT, TURN]) == (END,) and end_turns(model, [TURN]) == ()
    model.save(tmp_path / "made")
    assert GenerationConfig.from_pretrained(tmp_path / "made").eos_token_id == [EOS, END]
    assert Model.load(tmp_path / "made", device="cpu").stop_ids == (EOS, END)
    assert Model.load(base, device="cpu").stop_ids == (EOS,)
    if lora is None:
        hf = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
        made = hf.generate(torch.tensor([TURN] * 20), do_sample=True, max_new_tokens=40, pad_token_id=0)
        ended = (made[:, len(TURN) :] == END).int().cumsum(1).clamp_max(1)
        assert ended.any() and not (made[:, len(TURN) :][:, 1:][ended[:, :-1] == 1]).any()
