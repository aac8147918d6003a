TEXTS = ("w9 {prompt}", "{prompt} w10")

MODIFIED = [
    ("grpo", {}, ("hints", {})),
    ("grpo", {}, ("hints", {"drop": True})),
    ("dr_grpo", {"group_size": 4}, ("expert_prefix", {"start": 0.5})),
    ("grpo", {"group_size": 4}, ("templates", {"texts": TEXTS, "baseline": "view"})),
    ("grpo", {"group_size": 4}, ("templates", {"texts": TEXTS, "drop": True})),
    ("grpo", {"group_size": 4}, ("rubrics", {"column": "criteria", "text": "{prompt} {rubric}"})),
]
