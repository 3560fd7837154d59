"""Writes a caption for every picture of a folder, as a line of JSON.

python examples/caption_folder.py [FOLDER] > captions.jsonl
"""

import argparse
import json
from pathlib import Path

from mllama import LLM
from mllama.demo_model import PICTURES_PATH

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", nargs="?", type=Path, default=PICTURES_PATH)
parser.add_argument("--model", help="default: the demo model")
parser.add_argument("--prompt", default="What is in this picture?")
args = parser.parse_args()

paths = sorted(p for p in args.folder.iterdir() if p.suffix.lower() in SUFFIXES)
conversations = [
    [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": path},
                {"type": "text", "text": args.prompt},
            ],
        }
    ]
    for path in paths
]
with LLM(args.model, max_batch_size=4) as llm:
    answers = llm.answers(conversations, max_new_tokens=200)
    for path, output in zip(paths, answers, strict=True):
        line = {"file": path.name, "caption": output.text}
        print(json.dumps(line, ensure_ascii=False), flush=True)
