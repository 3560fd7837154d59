"""The Python API: a model in this process, without a server.

from mllama import LLM

with LLM() as llm:
    print(llm.generate("What is in the picture?", images=["scene.png"]).text)
"""

from mllama.engine.generation import Generation
from mllama.engine.outputs import Choice, Chunk, Output
from mllama.llm.model import LLM
from mllama.requests.events import TokenLogprob

__all__ = ["LLM", "Choice", "Chunk", "Generation", "Output", "TokenLogprob"]
