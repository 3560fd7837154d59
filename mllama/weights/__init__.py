"""The formats of weights: safetensors, GGUF, Ollama's store and LoRA adapters.

Knows tensors and bytes, but no graphs.
"""
