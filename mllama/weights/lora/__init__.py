"""LoRA adapters in PEFT's format, merged into the weights."""
