"""offon: LLM post-training, off-policy and on-policy, in one system."""

__version__ = "0.1.0"
