VARIANTS = {"on_policy_distill": [{}, {"form": "sampled"}, {"kind": "jsd"}]}
