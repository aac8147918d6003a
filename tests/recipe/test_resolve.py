"""A recipe resolves to the full settings of every node, or to all of its mistakes at once, each with its line."""

import pytest

from offon.errors import ConfigError, DataError, ModelError, OffonError, Problems
from offon.recipe import parse, resolve
from offon.recipe.trl import INSTEAD

FULL = """\
model: ./base
task: {gym: chain_sum, max_terms: 3}
pipeline:
  sft: {method: sft, data: demos.jsonl, steps: 200}
  rl:  {method: grpo, init: $sft, group_size: 4, steps: 100, with: [{kl_anchor: {to: $sft, coef: 0.1}}]}
  out: {method: distill, init: ./small, teacher: $rl, steps: 50, lora: true}
"""


@pytest.fixture
def of(folder, registry):
    """Resolve a recipe's text, as if it stood in a file in `folder`."""

    def resolved(text: str, *overrides: str):
        return resolve(parse(text, name="r.yaml", folder=folder), overrides=overrides, registry=registry)

    return resolved


@pytest.fixture
def mistakes(of):
    """The errors of a recipe's text."""

    def errors(text: str, *overrides: str) -> list[OffonError]:
        with pytest.raises(OffonError) as caught:
            of(text, *overrides)
        return caught.value.errors if isinstance(caught.value, Problems) else [caught.value]

    return errors


def node(line: str) -> str:
    """A recipe of one node."""
    return f"model: ./base\ntask: gym:x\npipeline:\n  n: {{{line}}}\n"


# ---- what a good recipe becomes


def test_every_value_is_filled_in_by_recipe_then_row_then_library(of):
    recipe = of(FULL)
    rl = recipe.node("rl")
    assert (rl.settings.steps, rl.origins["steps"]) == (100, "recipe")
    assert (rl.settings.learning_rate, rl.origins["learning_rate"]) == (1e-6, "row")
    assert (rl.settings.weight_decay, rl.origins["weight_decay"]) == (0.0, "library")
    assert (rl.settings.task, rl.origins["task"]) == ({"gym": "chain_sum", "max_terms": 3}, "the recipe's task")
    assert rl.arguments == {"group_size": 4, "clip": (0.2, 0.2)}
    assert (rl.origins["group_size"], rl.origins["clip"]) == ("recipe", "row")


def test_edges_say_what_each_node_reads(of, folder):
    recipe = of(FULL)
    assert [(e.kind, e.source) for e in recipe.node("sft").inputs] == [
        ("init", str(folder / "base")),
        ("data", str(folder / "demos.jsonl")),
    ]
    assert [(e.kind, e.node) for e in recipe.node("rl").inputs] == [("init", "sft"), ("reference", "sft")]
    assert [(e.kind, e.node) for e in recipe.node("out").inputs] == [("init", None), ("teacher", "rl")]


def test_what_is_dumped_loads_back_to_the_same_recipe(of):
    recipe = of(FULL)
    again = of(recipe.dump())
    assert again == recipe
    assert again.dump().replace("  # ", "") != recipe.dump().replace("  # ", "")  # by then the recipe wrote it all
    assert of(again.dump()).dump() == again.dump()


def test_the_dump_is_readable_and_marks_origins(of):
    lines = of(FULL).dump().splitlines()
    assert "    learning_rate: 1.0e-06  # row" in lines
    assert "    steps: 100" in lines
    assert "    with: [{kl_anchor: {to: $sft, coef: 0.1}}]" in lines
    assert not any("temperature" in line for line in lines[lines.index("  sft:") : lines.index("  rl:")])


def test_nodes_are_ordered_by_what_they_read(of):
    text = """\
model: $base
pipeline:
  rl: {method: grpo, init: $sft, task: gym:x, steps: 1}
  sft: {method: sft, data: demos.jsonl, steps: 1}
  base: {make: "./prepare.py:base", text: hello}
"""
    assert [n.name for n in of(text).nodes] == ["base", "sft", "rl"]


def test_a_make_node_is_checked_against_its_functions_signature(of, mistakes, folder):
    text = "seed: 5\npipeline:\n  base: {make: ./prepare.py:base, text: hello}\n"
    made = of(text).node("base")
    assert made.function == f"{folder / 'prepare.py'}:base"
    assert made.arguments == {"size": 3, "text": "hello", "seed": 5}
    (unknown,) = mistakes(text.replace("text: hello", "text: hello, sise: 3"))
    assert "did you mean size" in unknown.fix
    (missing,) = mistakes(text.replace(", text: hello", ""))
    assert "needs text" in missing.what
    (wrong,) = mistakes(text.replace("hello", "hello, size: big"))
    assert wrong.why == "allowed: a whole number"
    (absent,) = mistakes(text.replace("base, text", "bsae, text"))
    assert "it defines base" in absent.fix


def test_a_row_of_ones_own_is_a_function_in_a_file(of, folder):
    (folder / "mine.py").write_text(
        "from tests.recipe.conftest import FakeStage\n\n"
        "def row(task, *, temper: float = 2.0):\n    return FakeStage(('self',))\n"
    )
    own = of(node("method: ./mine.py:row, steps: 3, temper: 1")).node("n")
    assert own.method == f"{folder / 'mine.py'}:row" and own.arguments == {"temper": 1.0}


def test_a_rows_learning_rate_is_for_full_fine_tuning_and_lora_takes_ten_times_it(of):
    plain, lora = of(node("method: grpo, steps: 1")).nodes[0], of(node("method: grpo, steps: 1, lora: {r: 4}")).nodes[0]
    assert lora.settings.learning_rate == pytest.approx(10 * plain.settings.learning_rate)
    assert lora.origins["learning_rate"] == "row x 10 for LoRA" and lora.settings.lora.r == 4
    assert of(FULL).node("out").settings.learning_rate == pytest.approx(1e-4)
    assert of(node("method: grpo, steps: 1, lora: true, learning_rate: 1e-3")).nodes[0].settings.learning_rate == 1e-3


def test_the_seed_reaches_nodes_unless_they_have_their_own(of):
    recipe = of("seed: 3\n" + FULL, "rl.seed=4")
    assert (recipe.node("sft").settings.seed, recipe.node("rl").settings.seed) == (3, 4)


def test_probe_measures_every_task_with_enough_tokens(of):
    probe = of(FULL).probe
    assert (probe.prompts, probe.samples, probe.k) == (64, 128, 32)
    assert probe.tasks == {"chain_sum": {"gym": "chain_sum", "max_terms": 3}}
    assert probe.max_tokens == 512  # the longest any stage samples
    both = of(FULL, "rl.task=gym:lcm,max=3").probe
    assert list(both.tasks) == ["chain_sum", "lcm"]
    assert of(FULL, "probe=false").probe is None
    assert "probe: false" in of(FULL, "probe=false").dump()


def test_trl_words_are_renamed_and_the_new_word_is_told(of):
    recipe = of(node("method: grpo, max_steps: 5, num_generations: 4, max_completion_length: 9"))
    assert recipe.nodes[0].arguments["group_size"] == 4
    assert (recipe.nodes[0].settings.steps, recipe.nodes[0].settings.max_tokens) == (5, 9)
    assert "r.yaml:4 (pipeline.n): num_generations is called group_size here" in recipe.notes


def test_starting_from_the_recipes_model_in_mid_pipeline_is_told(of):
    text = FULL.replace("init: $sft, ", "")
    assert any("to continue sft write init: $sft" in note for note in of(text).notes)
    assert not of(FULL).notes
    made_first = (
        "model: ./base\npipeline:\n  d: {make: ./prepare.py:base, text: x}\n  s: {method: sft, data: $d, steps: 1}\n"
    )
    assert not of(made_first).notes


def test_batches_are_said_in_words(of):
    rl = of(FULL, "rl.prompts_per_step=8", "rl.prompts_per_buffer=16", "rl.epochs=2").node("rl")
    assert rl.batches == "100 steps of 8 prompts x 4 samples; 25 buffers of 16 prompts, each passed over 2 times"


def test_paths_are_relative_to_the_recipe_and_on_the_command_line_to_the_shell(
    of, folder, tmp_path_factory, monkeypatch
):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "other.jsonl").write_text("{}\n")
    monkeypatch.chdir(elsewhere)
    assert of(FULL, "sft.data=other.jsonl").node("sft").settings.data == str(elsewhere / "other.jsonl")
    assert of(FULL).node("sft").settings.data == str(folder / "demos.jsonl")


def test_the_files_of_a_task_in_one_line_are_relative_to_the_recipe(of, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for form in ("jsonl:{},verifier=exact", "python:rewards:length,data={},heldout=0.5"):
        recipe = of(node(f"method: grpo, steps: 1, init: ./base, task: '{form.format('demos.jsonl')}'"))
        assert recipe.nodes[0].settings.task == form.format(folder / "demos.jsonl")


def test_python_values_and_objects_make_a_recipe_too(registry, folder, monkeypatch):
    monkeypatch.chdir(folder)
    rows = [object()]
    recipe = resolve(
        {"model": "./base", "pipeline": {"s": {"method": "sft", "data": tuple(rows), "steps": 1}}}, registry=registry
    )
    assert recipe.nodes[0].settings.data == tuple(rows) and recipe.nodes[0].inputs[0].kind == "init"
    assert "object object" in recipe.dump()


def test_a_name_that_is_no_path_is_left_to_the_hub(of):
    recipe = of(node("method: sft, data: org/set, steps: 1, init: Qwen/Qwen3-0.6B"))
    assert (recipe.nodes[0].settings.init, recipe.nodes[0].settings.data) == ("Qwen/Qwen3-0.6B", "org/set")


# ---- mistakes


@pytest.mark.fault("F01")
def test_a_misspelt_key_names_file_line_and_the_nearest_key_in_few_lines(mistakes):
    (error,) = mistakes(FULL.replace("steps: 200", "max_stepz: 2, steps: 3"))
    assert isinstance(error, ConfigError) and error.exit_code == 2
    assert error.where == "r.yaml:4 (pipeline.sft)" and error.fix == "did you mean steps?"
    assert len(str(error).splitlines()) <= 8


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        (node("method: grpo, steps: 1, group_sise: 3"), "did you mean group_size?"),
        (node("method: grpo, steps: 1, lora: {rank: 3, alfa: 2}"), "did you mean alpha?"),
        (node("method: grpo, steps: 1, with: [{kl_anchor: {coeff: 3}}]"), "did you mean coef?"),
        (node("method: grpo, with: [kl_ankr]"), "did you mean kl_anchor? known: kl_anchor, or ./file.py:NAME"),
        (node("method: gropo, steps: 1"), "did you mean grpo? known: sft, grpo, distill, or ./file.py:NAME"),
        (node("method: grpo, steps: 1") + "sede: 1\n", "did you mean seed?"),
        (node("method: grpo, steps: 1") + "steps: 1\n", "pipeline: {NAME: {steps: ...}}"),
        (node("method: grpo, steps: 1") + "probe: {sample: 1}\n", "did you mean samples?"),
        (node("method: grpo, steps: 1, init: $nn"), "did you mean $n?"),
        (node("method: grpo, steps: 1, beta: 0.1"), "a KL term is a modifier: with: [{kl_anchor: {coef: BETA}}]"),
        (node("method: grpo, steps: 1, lora: {dropout: 0.1}"), INSTEAD["dropout"]),
    ],
)  # fmt: skip
def test_what_was_meant_is_proposed(mistakes, text, fix):
    assert fix in [error.fix for error in mistakes(text)]


def test_an_argument_of_another_method_says_whose_it_is(mistakes):
    (error,) = mistakes(node("method: sft, data: demos.jsonl, steps: 1, group_size: 8"))
    assert error.why == "group_size belongs to grpo; this node's method is sft"


@pytest.mark.fault("F02")
@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ("prompts_per_step: 2.5", "a whole number >= 1"),
        ("learning_rate: -1", "a number > 0 and <= 1"),
        ("learning_rate: 0", "a number > 0 and <= 1"),
        ("learning_rate: .nan", "a number > 0 and <= 1"),
        ("learning_rate: 5", "a number > 0 and <= 1"),
        ("max_tokens: -5", "a whole number >= 1"),
        ("epochs: true", "a whole number >= 1"),
        ("lr_scheduler_type: cosin", "one of constant, linear, cosine"),
        ("group_size: many", "a whole number"),
        ("clip: 0.2", "a list of 2 values, each a number"),
        ("lora: 16", "a mapping of r, alpha, target_modules"),
        ("with: [{kl_anchor: {coef: yes}}]", "a number"),
        ("seed: 1.5", "a whole number >= 0"),
    ],
)
def test_a_value_out_of_range_says_what_is_allowed(mistakes, setting, allowed):
    (error,) = mistakes(node(f"method: grpo, steps: 1, {setting}"))
    assert error.exit_code == 2 and error.why == f"allowed: {allowed}" and error.where.startswith("r.yaml:4")


@pytest.mark.parametrize("written", ["1e-5", '"1e-5"', "1E-5", "0.00001"])
def test_a_learning_rate_may_be_written_in_any_of_the_usual_ways(of, written):
    assert of(node(f"method: grpo, steps: 1, learning_rate: {written}")).nodes[0].settings.learning_rate == 1e-5


def test_paths_that_do_not_exist_name_their_kind_and_their_neighbour(mistakes, folder):
    text = FULL.replace("./base", "./bsae").replace("demos.jsonl", "demo.jsonl").replace("./small", "/nowhere/small")
    model, data, init = mistakes(text)
    assert isinstance(model, ModelError) and model.fix == f"closest: {folder / 'base'}"
    assert isinstance(data, DataError) and data.fix == f"closest: {folder / 'demos.jsonl'}"
    assert isinstance(init, ModelError) and init.what == "local path does not exist: /nowhere/small"


def test_a_path_relative_to_the_shell_is_explained(mistakes, folder, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("shell")
    (elsewhere / "d.jsonl").write_text("")
    monkeypatch.chdir(elsewhere)
    (error,) = mistakes(FULL.replace("demos.jsonl", "./d.jsonl"))
    assert "relative to the recipe's folder" in error.fix


@pytest.mark.fault("F05")
def test_a_batch_that_does_not_divide_names_the_nearest_that_do(mistakes):
    (error,) = mistakes(node("method: grpo, steps: 1, prompts_per_step: 16, prompts_per_buffer: 40"))
    assert error.where == "r.yaml:4 (pipeline.n)" and error.fix == "use 32 or 48"


def test_a_stage_that_looks_from_one_prompt_to_another_is_refused_a_buffer_of_one(folder):
    line = "method: kto, data: demos.jsonl, init: ./base, steps: 1, prompts_per_step: 1"
    with pytest.raises(ConfigError, match="a buffer of 1 prompt") as refused:
        resolve(parse(node(line), name="r.yaml", folder=folder))
    assert refused.value.where == "r.yaml:4 (pipeline.n)" and refused.value.fix == "prompts_per_step: 2 or more"
    assert resolve(parse(node(line + ", prompts_per_buffer: 2"), folder=folder)).nodes[0].settings.prompts_per_step == 1


def test_nodes_that_wait_for_each_other_are_named_in_a_circle(mistakes):
    text = "task: gym:x\npipeline:\n  a: {method: grpo, init: $b, steps: 1}\n  b: {method: grpo, init: $a, steps: 1}\n"
    (error,) = mistakes(text)
    assert error.what == "nodes wait for each other: a -> b -> a"


def test_a_model_made_by_a_node_that_starts_from_it_is_a_circle(mistakes):
    (error,) = mistakes("model: $a\ntask: gym:x\npipeline:\n  a: {method: grpo, steps: 1}\n")
    assert error.what == "nodes wait for each other: a -> a"


@pytest.mark.parametrize(
    ("line", "key", "why"),
    [
        ("method: sft, data: demos.jsonl, steps: 1, temperature: 0.5", "temperature", "sft samples nothing here"),
        ("method: grpo, steps: 1, supervise: last", "supervise", "grpo reads no data here"),
        ("method: grpo, steps: 1, teacher: ./small", "teacher", "grpo takes task, no teacher"),
        ("method: distill, teacher: ./small, data: a/b, steps: 1, top_k: 3", "top_k", "distill samples nothing here"),
    ],
)  # fmt: skip
def test_a_setting_that_nothing_reads_is_refused(mistakes, line, key, why):
    (error,) = mistakes(node(line))
    assert error.what == f"{key} has no effect here" and error.why == why


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("method: sft, steps: 1", "method sft needs data"),
        ("method: distill, steps: 1", "method distill needs teacher"),
        ("method: grpo", "node 'n' has no steps"),
        ("steps: 3", "node 'n' has neither method nor make nor gate"),
        ("method: grpo, make: ./prepare.py:base", "node 'n' has both method and make"),
        ("method: kl_anchor, steps: 1", "kl_anchor is a modifier, not a method"),
        ("method: grpo, steps: 1, with: [sft]", "sft is a stage, not a modifier"),
        ("method: 3, steps: 1", "method: 3 is not a name"),
        ("make: prepare", "make: 'prepare' names no function"),
        ("method: grpo, steps: 1, clip: [2, 2]", "clip low is above 1"),
        ("method: grpo, steps: 1, with: kl_anchor", "with is not a list"),
        ("method: grpo, steps: 1, max_steps: 2", "steps and max_steps are the same setting"),
    ],
)
def test_what_a_node_lacks_or_contradicts_is_said(mistakes, line, what):
    (error,) = mistakes(node(line))
    assert error.what == what and error.exit_code == 2


@pytest.mark.fault("F01")
def test_all_mistakes_are_reported_at_once_each_with_its_line(mistakes):
    text = """\
model: ./bsae
seed: true
pipeline:
  sft: {method: sft, data: demo.jsonl, max_stepz: 2, steps: 1, learning_rate: -1}
  rl:
    method: grop
    steps: 2.5
"""
    errors = mistakes(text, "rl.lora=3")
    lines = [error.where.split(" ")[0].removeprefix("r.yaml:") for error in errors]
    assert sorted(lines) == ["--set", "1", "2", "4", "4", "4", "6", "7"]
    assert all(len(str(error).splitlines()) <= 8 for error in errors)


def test_what_is_wrong_with_the_recipes_own_keys_is_said_once_and_breaks_nothing_that_reads_them(mistakes, folder):
    """A make function takes the recipe's seed, a gate compares with the model that its candidate started from."""
    (folder / "prepare.py").write_text("def base(directory, *, seed: int = 0): ...\n")
    made = "  base: {make: ./prepare.py:base}\n"
    gate = "  keep: {gate: $sft, limits: {retention: {min: 0.5}}, on_fail: rollback}\n"
    errors = mistakes("model: ./bsae\nseed: -1\n" + FULL.partition("\n")[2] + made + gate)
    assert [error.what.split(" ")[0] for error in errors] == ["seed:", "local"]


def test_an_object_that_yaml_cannot_write_is_refused_by_its_repr(registry):
    with pytest.raises(OffonError, match="seed: <object object .* is not allowed"):
        resolve({"seed": object(), "pipeline": {"a": {"method": "distill", "teacher": "x"}}}, registry=registry)


def test_a_file_that_cannot_be_imported_is_the_recipes_problem(mistakes, folder):
    (folder / "prepare.py").write_text("import nothing_of_this_name\n")
    (error,) = mistakes("pipeline:\n  base: {make: ./prepare.py:base}\n")
    assert "cannot be imported" in error.what and "nothing_of_this_name" in error.why


def test_probe_needs_at_least_k_samples(mistakes):
    (error,) = mistakes(FULL, "probe.k=200")
    assert error.what == "k 200 is more than samples 128"


def test_the_shipped_catalogue_resolves_the_recipe_of_the_readme(folder):
    document = parse(FULL.replace("method: distill", "method: on_policy_distill"), name="r.yaml", folder=folder)
    recipe = resolve(document)
    assert [n.method for n in recipe.nodes] == ["sft", "grpo", "on_policy_distill"]
    assert resolve(parse(recipe.dump(), folder=folder)) == recipe
