"""Asks a model with a LoRA adapter, and the same model without it.

    python examples/lora_adapter.py ADAPTER [MODEL]

ADAPTER is a directory that PEFT has written.  It is merged into the weights while they
are loaded, so that an answer takes no longer than without it.
"""

import argparse

from mllama import LLM
from mllama.demo_model import PICTURES_PATH

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("adapter")
parser.add_argument("model", nargs="?", help="default: the demo model")
parser.add_argument("--image", default=PICTURES_PATH / "shapes.png")
parser.add_argument("--prompt", default="What is in this picture?")
args = parser.parse_args()

for name, lora_path in (("without", None), ("with", args.adapter)):
    with LLM(args.model, lora_path=lora_path) as llm:
        output = llm.generate(args.prompt, [args.image], max_new_tokens=40)
    print(f"{name} the adapter: {output.text}")
