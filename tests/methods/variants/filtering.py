VARIANTS = {"raft": [{}]}
