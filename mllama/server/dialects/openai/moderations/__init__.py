"""OpenAI's moderation API over a Llama Guard, which judges conversations."""
