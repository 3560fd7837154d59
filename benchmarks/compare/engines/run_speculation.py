"""This project's scheduler with guesses: `run_speculation.py MODEL N OPTIONS`.

N is the number of threads, and OPTIONS are options of `mllama.LLM` as a JSON object.
Answers with guesses and without come from one process, in turn, so that nothing else
differs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.compare.engines.protocol import answer_requests

STREAMS = 8
NEW_TOKENS = 97
"""Length of answers."""


def load() -> dict[str, Any]:
    """Loads the model and returns the functions that requests name."""
    model, threads, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])

    from mllama.utils.cpu_affinity import start_max_threads

    start_max_threads(threads)

    from benchmarks.speculation import rates, worst_case
    from benchmarks.speculation.scheduled import answered, scheduled, without_guesses
    from tests.scheduling.proposers import always_guess

    served = scheduled(Path(model), STREAMS, image_cache_size=1 << 27, **options)
    speculation: Any = served.speculation
    vocabulary = len(served.tokenizer.delegate)
    questions = {
        False: rates.questions(1, NEW_TOKENS),
        True: rates.questions(1, NEW_TOKENS, pictured=True),
    }

    def forced(rate: float | None, seed: int, pictured: bool) -> float:
        """Returns the tokens per second of one stream, of whose guesses, four a step, a
        share is right; None guesses nothing."""
        known = questions[pictured]
        if rate is None:
            with without_guesses(served):
                return answered(served, known).rate
        kept = speculation._proposer, speculation.budget
        oracle = rates.Known(1 - rate, vocabulary, seed=seed)
        always_guess(served, oracle, rates.GUESSES)
        try:
            return answered(served, known).rate
        finally:
            speculation._proposer, speculation.budget = kept

    def lookup(kind: str, streams: int, number: int) -> float:
        """Returns the tokens per second with prompt lookup over those without."""
        asked = worst_case.workloads(False, streams, NEW_TOKENS)[kind]
        plain, guessing = worst_case.rates_in_turn(served, asked, number)
        return guessing / plain

    def about() -> dict[str, Any]:
        import mllama

        return {"mllama": mllama.__version__, "threads": threads}

    for pictured in questions:  # warms up, and encodes the picture
        for rate in (None, 1.0):
            forced(rate, 0, pictured)
    return {each.__name__: each for each in (forced, lookup, about)}


if __name__ == "__main__":
    answer_requests(load)
