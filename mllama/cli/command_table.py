"""The options of all commands together.

Those of the model, of prompts and of answers are in ``mllama/launch``, those of single
commands in ``*_options.py`` next to this file.
"""

from __future__ import annotations

from typing import Final

from mllama.cli.access_options import ACCESS_OPTIONS
from mllama.cli.batch_options import BATCH_OPTIONS, SERVED_BATCH_OPTIONS
from mllama.cli.cluster_options import CLUSTER_OPTIONS
from mllama.cli.file_options import COMPILE_OPTIONS, QUANTIZE_OPTIONS
from mllama.cli.question_options import (
    CHAT_OPTIONS,
    EXPLAIN_OPTIONS,
    OUTPUT_OPTIONS,
    QUESTION_OPTIONS,
)
from mllama.cli.serve_options import DEFAULT_OPTIONS, SERVE_OPTIONS
from mllama.launch.model_options import MODEL_OPTIONS
from mllama.launch.prompt_options import PROMPT_OPTIONS
from mllama.launch.sampling_options import SAMPLING_OPTIONS

ALL_OPTIONS: Final = (
    *QUANTIZE_OPTIONS,
    *MODEL_OPTIONS,
    *COMPILE_OPTIONS,
    *QUESTION_OPTIONS,
    *PROMPT_OPTIONS,
    *SAMPLING_OPTIONS,
    *EXPLAIN_OPTIONS,
    *OUTPUT_OPTIONS,
    *DEFAULT_OPTIONS,
    *SERVE_OPTIONS,
    *ACCESS_OPTIONS,
    *SERVED_BATCH_OPTIONS,
    *CLUSTER_OPTIONS,
    *CHAT_OPTIONS,
    *BATCH_OPTIONS,
)
"""Every option of this package's commands and of ``LLM``, in the order of the help."""
