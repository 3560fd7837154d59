"""What MAX drives: tokenizer, batch plan, image store and the pipeline model."""
