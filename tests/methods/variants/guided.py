MODIFIED = [("grpo", {}, ("hints", {})), ("grpo", {}, ("hints", {"drop": True}))]
