"""How many tokens of given texts prompt lookup guesses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from mllama.runtime.speculation.guess_budget import MAX_GUESSES
from mllama.runtime.speculation.prompt_lookup import PromptLookup

_ROOT = Path(__file__).resolve().parents[2]

_WORDS = re.compile(
    r"'(?:[sdmt]|ll|ve|re)|[^\r\n\w]?[^\W\d_]+|\d{1,3}| ?[^\s\w]+[\r\n]*|_|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""How Llama 3 splits a text before it looks words up; most common ones are a token."""

_RECORD = {
    "name": "Margaret Hamilton Lindqvist",
    "street": "1847 Old Harbour Road",
    "city": "Thunder Bay",
    "invoice": "INV-2024-000731",
    "date": "17 November 2024",
    "total": "1,284.50 Canadian dollars",
    "remark": "deliver to the back entrance after five o'clock",
}


def texts() -> dict[str, tuple[str, str]]:
    """Returns a prompt and the answer to it by name."""
    document = (_ROOT / "SECURITY.md").read_text()
    code = (_ROOT / "mllama/runtime/next_step.py").read_text()
    edited = (
        code.replace("advanced(", "after_one_token(")
        .replace("progress: Progress", "batch: Progress")
        .replace("in progress", "in batch")
        .replace('"""Returns', '"""Gives back')
    )
    prose = ". ".join(f"The {key} is {value}" for key, value in _RECORD.items())
    other = (_ROOT / "docs/migrate.md").read_text()[:8000]
    return {
        "a text repeated": (f"{document}\nRepeat the text.", document),
        "code edited": (f"{code}\nRename some things.", edited),
        "a form filled by a schema": (
            f"{prose}.\nFill in the form.",
            json.dumps(_RECORD, indent=1),
        ),
        "a text that isn't in the prompt": ("Write about migration.", other),
    }


def measure() -> None:
    """Prints the share of guesses that were right, and the tokens of a step."""
    ids: dict[str, int] = {}
    for name, (prompt, answer) in texts().items():
        start, right = (
            [ids.setdefault(word, len(ids)) for word in _WORDS.findall(text)]
            for text in (prompt, answer)
        )
        tokens = np.array(start + right, np.int64)
        lookup, position, steps, guessed, accepted = PromptLookup(), len(start), 0, 0, 0
        while position < len(tokens):
            context = SimpleNamespace(
                request_id=0, tokens=SimpleNamespace(all=tokens[:position])
            )
            (guesses,) = lookup.propose([context], [MAX_GUESSES])
            following = tokens[position : position + guesses.size]
            wrong = np.flatnonzero(guesses[: following.size] != following)
            count = int(wrong[0]) if wrong.size else following.size
            guessed += guesses.size
            accepted += count
            position += count + 1
            steps += 1
        print(
            f"{name}: {len(right)} tokens in {steps} steps, {len(right) / steps:.2f} "
            f"tokens a step; {accepted} of {guessed} guesses right "
            f"({accepted / max(guessed, 1):.2f})",
            flush=True,
        )
