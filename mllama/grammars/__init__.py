"""Grammars of answers: JSON schemas, regular expressions and choices as EBNF."""
