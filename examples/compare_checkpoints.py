"""Shows where two checkpoints answer differently, such as one and its quantized file.

    python examples/compare_checkpoints.py FIRST SECOND

The checkpoints are loaded one after the other, so memory needs room for only one.
"""

import argparse

from mllama import LLM
from mllama.demo_model import MODEL_PATH, PICTURES

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("first", nargs="?", default=MODEL_PATH)
parser.add_argument("second", nargs="?", default=MODEL_PATH)
args = parser.parse_args()

asked = [
    (picture.path, question.text)
    for picture in PICTURES
    for question in picture.questions
]
answers = []
for checkpoint in (args.first, args.second):
    with LLM(checkpoint) as llm:
        answers.append([llm.generate(text, [path]).text for path, text in asked])

same = 0
for (path, text), first, second in zip(asked, *answers, strict=True):
    same += first == second
    if first != second:
        print(f"{path.name}: {text}\n  first:  {first}\n  second: {second}")
print(f"{same} of {len(asked)} answers are the same")
