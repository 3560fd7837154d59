"""A copy of the demo model with a custom tokenizer class."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from mllama.demo_model import MODEL_PATH

CODE = """
from tokenizers import Tokenizer, decoders
from transformers import PreTrainedTokenizerFast


class OwnTokenizer(PreTrainedTokenizerFast):
    def __init__(self, **settings):
        own = Tokenizer.from_file(f"{settings['name_or_path']}/tokenizer.json")
        own.decoder = decoders.Sequence([own.decoder, decoders.Replace("e", "3")])
        super().__init__(tokenizer_object=own, **settings)
"""
"""The class writes 3 instead of e, so that answers show whether its code ran."""


def own_tokenizer(directory: Path) -> Path:
    """Writes the checkpoint below a directory and returns its path."""
    model = directory / "own"
    shutil.copytree(MODEL_PATH, model)
    (model / "own_tokenizer.py").write_text(CODE)
    file = model / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings["tokenizer_class"] = "OwnTokenizer"
    settings["auto_map"] = {"AutoTokenizer": [None, "own_tokenizer.OwnTokenizer"]}
    file.write_text(json.dumps(settings))
    return model
