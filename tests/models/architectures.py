"""Tiny models of many architectures from their configs, with every parameter away from its special initial value."""

import torch
import transformers
from transformers import AutoModelForCausalLM

VOCABULARY = 97
COMMON = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
GPT2 = dict(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2)
WINDOWED = dict(sliding_window=8, layer_types=["sliding_attention", "full_attention"])
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, decoder_sparse_step=1)
LATENT = dict(num_key_value_heads=4, q_lora_rank=12, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=8)
ROUTED = dict(n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, moe_intermediate_size=16)
LINEAR = dict(
    linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8, **EXPERTS
)
MAMBA = dict(mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8, mamba_chunk_size=8)

# name -> (config class, settings)
PACKED = {
    "Qwen3": ("Qwen3Config", dict(head_dim=8)),
    "Llama": ("LlamaConfig", {}),
    "Gemma3": ("Gemma3TextConfig", dict(head_dim=8, query_pre_attn_scalar=16, **WINDOWED)),
    "Gemma2": (
        "Gemma2Config",
        dict(
            head_dim=8,
            query_pre_attn_scalar=16,
            attn_logit_softcapping=1.0,
            final_logit_softcapping=6.0,
            **WINDOWED,
        ),
    ),
    "gpt-oss": ("GptOssConfig", dict(head_dim=8, num_local_experts=4, num_experts_per_tok=2, **WINDOWED)),
    "Phi3": ("Phi3Config", dict(partial_rotary_factor=0.5, sliding_window=8)),
    "GPT-NeoX": ("GPTNeoXConfig", dict(rotary_pct=0.25)),
    "GPT2": ("GPT2Config", GPT2),
    "Qwen3-MoE": ("Qwen3MoeConfig", dict(head_dim=8, **EXPERTS)),
    "DeepSeek-V3": ("DeepseekV3Config", dict(v_head_dim=6, first_k_dense_replace=1, **LATENT, **ROUTED)),
    "Granite": ("GraniteConfig", dict(logits_scaling=4.0, attention_multiplier=0.3, embedding_multiplier=2.0)),
    "MiniCPM3": ("MiniCPM3Config", dict(v_head_dim=8, dim_model_base=64, **LATENT)),
    "OPT": ("OPTConfig", dict(ffn_dim=48, word_embed_proj_dim=32, dropout=0.1)),
    "StableLM": ("StableLmConfig", {}),
    "Gemma4": (
        "Gemma4TextConfig",
        dict(
            head_dim=8,
            global_head_dim=8,
            num_hidden_layers=4,
            num_kv_shared_layers=2,
            vocab_size_per_layer_input=VOCABULARY,
            hidden_size_per_layer_input=4,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"] * 2,
        ),
    ),
}
PADDED = {
    "Bloom": ("BloomConfig", dict(n_layer=2, n_head=4)),
    "Falcon": ("FalconConfig", {}),
    "GPT-J": ("GPTJConfig", dict(rotary_dim=4, **GPT2)),
    "Mamba2": ("Mamba2Config", dict(state_size=8, num_heads=8, head_dim=8, n_groups=1, chunk_size=8)),
    "Qwen3-Next": (
        "Qwen3NextConfig",
        dict(
            head_dim=8, shared_expert_intermediate_size=16, layer_types=["linear_attention", "full_attention"], **LINEAR
        ),
    ),
    "LFM2": ("Lfm2Config", dict(layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False)),
    "Falcon-H1": ("FalconH1Config", MAMBA),
}


def build(name: str, **changes) -> torch.nn.Module:
    """The tiny model of an architecture, float32, plainest attention, always the same weights."""
    kind, settings = (PACKED | PADDED)[name]
    settings = settings if kind in ("GPT2Config", "GPTJConfig") else COMMON | settings
    config = getattr(transformers, kind)(**(settings | changes))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # norms, biases and sinks start at 0 or 1: a mistake in them would be invisible
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def sequences(seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Eight (prefix, response) pairs of different lengths over three prompts, one response of a single token."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (n,), generator=generator).tolist()

    shapes = [(17, (6, 11, 1, 3)), (9, (14, 4, 9)), (5, (7,))]
    prompts = [(tokens(n), [tokens(m) for m in responses]) for n, responses in shapes]
    return [(prompt, response) for prompt, responses in prompts for response in responses]
