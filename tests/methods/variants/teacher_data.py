VARIANTS = {"distill": [{}, {"targets": "logits"}, {"targets": "logits", "kind": "jsd", "kd_temperature": 2.0}]}
