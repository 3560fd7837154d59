"""Speculative decoding: several guessed tokens of an answer are checked in one step."""
