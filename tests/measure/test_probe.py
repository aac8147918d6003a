"""What a probe says of the rows it asks: clusters, repeats, content where the form is right."""

from offon.measure.probe import content_outcomes, cut_off, prompt_infos, repeated
from offon.tasks import open_task
from offon.types import Group, Item, Source, Trajectory


def test_a_cluster_column_reaches_the_prompts():
    rows = [{"prompt": f"{n}?", "answer": "1", "cluster": n // 2} for n in range(4)]
    items = open_task({"jsonl": rows, "heldout": 0}).items("train")
    infos = prompt_infos([Group(item=item, views={"prompt": (0,)}) for item in items])
    assert [info["cluster"] for info in infos] == ["0", "0", "1", "1"]
    plain = Group(item=Item(id="0", prompt="?"), views={"prompt": (0,)})
    assert "cluster" not in prompt_infos([plain])[0]


def test_rows_that_repeat_a_prompt_are_noticed():
    rows = [{"prompt": p, "answer": a} for p, a in (("1?", "1"), ("2?", "2"), ("1?", "1"), ("1?", "3"))]
    assert repeated(open_task({"jsonl": rows, "heldout": 0})) == [
        "2 of 4 rows repeat a prompt and are asked once, 1 of them with another answer than the one that is kept"
    ]
    assert repeated(open_task({"jsonl": rows[:2], "heldout": 0})) == [] == repeated(open_task("testbed:guard"))


def test_what_is_right_in_form_has_right_content():
    """Checkers may give a second, lenient verdict only where the first says no."""

    def member(reward, content, tags=()):
        signals = {"reward": reward, "content": content}
        return Trajectory.of([1], (0,), Source.LEARNER, signals=signals).replace(tags=frozenset(tags))

    members = (member(1.0, None), member(0.0, 1.0, ["truncated"]), member(0.0, 0.0), member(1.0, 0.0))
    group = Group(item=Item(id="0", prompt="?"), views={"prompt": (0,)}, members=members)
    assert content_outcomes([group]) == [[1.0, 1.0, 0.0, 1.0]] and cut_off([group]) == [[0.0, 1.0, 0.0, 0.0]]
    assert content_outcomes([group.replace(members=(member(1.0, None), member(0.0, None)))]) is None
