MODIFIED = [("grpo", {}, ("kl_anchor", {}))]
