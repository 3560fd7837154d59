"""OpenAI's Responses API: its bodies, their translation, and answers made of events."""
