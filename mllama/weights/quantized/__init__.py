"""Safetensors checkpoints that others have quantized, dequantized as they are read."""
