"""Measures what guessing tokens changes, and that it changes no answer.

    python -m benchmarks.speculation conversations         # the demo model
    python -m benchmarks.speculation rates [--model FILE]
    python -m benchmarks.speculation texts
    python -m benchmarks.speculation worst-case [--model FILE]

Without ``--model``, ``rates`` takes the model of ``make bench``, which is made unless
it exists, and ``worst-case`` the demo model.  With ``--random-layers`` the file of
``--model`` is made, unless it exists: so many text layers of 11B's shape with random
q4_k blocks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.compare.model import model_files
from benchmarks.random_model import Depth, write_random_gguf
from benchmarks.speculation import conversations, rates, texts, worst_case


def main() -> None:
    """Runs one of the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", choices=("conversations", "rates", "texts", "worst-case")
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--random-layers", type=int, metavar="N")
    parser.add_argument("--count", type=int, default=1000, help="conversations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--streams", type=int, default=1, help="of rates")
    parser.add_argument(
        "--pictured", action="store_true", help="rates about a picture of 4 tiles"
    )
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model: Path | None = options.model
    if model and options.random_layers and not model.exists():
        layers = options.random_layers
        depth = Depth(2, 1, layers, (layers // 2,), (0, 1))
        write_random_gguf(model, depth)
    match options.what:
        case "conversations":
            if not conversations.compare(options.count, options.seed):
                raise SystemExit("answers differ")
        case "rates":
            path = model or model_files().gguf
            rates.measure(
                path,
                options.streams,
                options.new_tokens,
                options.rounds,
                pictured=options.pictured,
            )
        case "texts":
            texts.measure()
        case _:
            worst_case.measure(model, options.new_tokens, options.rounds)


if __name__ == "__main__":
    main()
