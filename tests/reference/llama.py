"""Text-only Llamas: random ones, and the text path of the demo model.

They have the dimensions of the demo model's self-attention layers, so that tests share
a compiled graph.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.reference.configs import DEMO_MODEL

TOKENIZER = "tokenizer.json"


def llama_config(**fields: Any) -> LlamaConfig:
    """Returns the configuration of the demo model's text path."""
    demo = json.loads((DEMO_MODEL / "config.json").read_text())["text_config"]
    layers = demo["num_hidden_layers"] - len(demo["cross_attention_layers"])
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
        "max_position_embeddings",
        "rope_parameters",
        "bos_token_id",
        "eos_token_id",
    )
    values = {name: demo[name] for name in names}
    return LlamaConfig(**{**values, "num_hidden_layers": layers, **fields})


def write_llama(
    folder: Path, seed: int, *, dtype: torch.dtype = torch.float32, **fields: Any
) -> Path:
    """Writes a random Llama with the demo model's tokenizer, and returns the folder."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(llama_config(**fields))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.06)
        else:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.to(dtype).save_pretrained(folder)
    shutil.copy(DEMO_MODEL / TOKENIZER, folder)
    return folder


def write_demo_text_path(folder: Path) -> Path:
    """Writes what the demo model is for a text without images: a plain Llama."""
    demo = json.loads((DEMO_MODEL / "config.json").read_text())["text_config"]
    crosses = demo["cross_attention_layers"]
    layers = [i for i in range(demo["num_hidden_layers"]) if i not in crosses]
    tensors = {}
    for name, tensor in load_file(DEMO_MODEL / "model.safetensors").items():
        # Of either spelling: language_model.model.X and model.language_model.X.
        rest = name.removeprefix("model.").removeprefix("language_model.")
        rest = rest.removeprefix("model.")
        if rest == "embed_tokens.weight":
            tensors["model.embed_tokens.weight"] = tensor[: demo["vocab_size"]].clone()
        elif rest == "norm.weight":
            tensors["model.norm.weight"] = tensor
        elif rest == "lm_head.weight":
            tensors[rest] = tensor
        elif rest.startswith("layers."):
            _, index, part = rest.split(".", 2)
            if int(index) in layers:
                new = layers.index(int(index))
                tensors[f"model.layers.{new}.{part}"] = tensor
    folder.mkdir(exist_ok=True)
    llama_config(architectures=["LlamaForCausalLM"], dtype="float32").save_pretrained(
        folder
    )
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(DEMO_MODEL / TOKENIZER, folder)
    return folder


def write_llama_gguf(source: Path, target: Path, **keys: Any) -> Path:
    """Writes a Llama in float32 as llama.cpp's converter does, and returns the file.

    Names, keys and the order of rows are repeated here, so that a mistake in the reader
    shows.
    """
    config = json.loads((source / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config["hidden_size"] // heads
    rope = config["rope_parameters"]
    writer = gguf.GGUFWriter(target, keys.pop("architecture", "llama"))
    for key, number in {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "rope.dimension_count": head_dim,
        "vocab_size": config["vocab_size"],
        **keys,
    }.items():
        writer.add_uint32(f"llama.{key}", number)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", config["rms_norm_eps"])
    writer.add_float32("llama.rope.freq_base", rope["rope_theta"])
    _add_vocabulary(writer, source)
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    for name, tensor in load_file(source / "model.safetensors").items():
        if name in whole:
            writer.add_tensor(whole[name], tensor.float().numpy())
            continue
        _, _, index, part = name.split(".", 3)
        part = part.removesuffix(".weight")
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            count = heads if part == "self_attn.q_proj" else kv_heads
            # Rotated pairs lie next to each other there.
            tensor = tensor.reshape(count, 2, head_dim // 2, -1).swapaxes(1, 2)
            tensor = tensor.reshape(count * head_dim, -1).contiguous()
        writer.add_tensor(f"blk.{index}.{names[part]}.weight", tensor.float().numpy())
    writer.add_tensor("rope_freqs.weight", _rope_factors(rope, head_dim))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _add_vocabulary(writer: gguf.GGUFWriter, source: Path) -> None:
    content = json.loads((source / TOKENIZER).read_text(encoding="utf-8"))
    texts = {i: text for text, i in content["model"]["vocab"].items()}
    added = {token["id"]: token["content"] for token in content["added_tokens"]}
    vocab_size = json.loads((source / "config.json").read_text())["vocab_size"]
    texts = {i: text for i, text in (texts | added).items() if i < vocab_size}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([texts[i] for i in range(len(texts))])
    writer.add_token_types(
        [
            gguf.TokenType.CONTROL if i in added else gguf.TokenType.NORMAL
            for i in range(len(texts))
        ]
    )


def _rope_factors(rope: dict[str, Any], head_dim: int) -> Any:
    """Returns what llama.cpp's converter writes for the rope type llama3."""
    frequencies = rope["rope_theta"] ** -(
        torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    )
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    original, factors = rope["original_max_position_embeddings"], []
    for wave in (2 * torch.pi / frequencies).tolist():
        if wave < original / high:
            factors.append(1.0)
        elif wave > original / low:
            factors.append(rope["factor"])
        else:
            smooth = (original / wave - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return torch.tensor(factors, dtype=torch.float32).numpy()
