#!/usr/bin/env bash
# Quantizes a checkpoint to one GGUF file, and serves that.
#
#     examples/quantize_and_serve.sh [CHECKPOINT [FILE [OPTION OF mllama serve]...]]
#
# The file contains configuration, tokenizer and chat template as well: nothing else is
# needed to serve it. The default checkpoint is the demo model.
set -euo pipefail

checkpoint=${1:-$(python -c 'from mllama.demo_model import MODEL_PATH; print(MODEL_PATH)')}
file=${2:-model.gguf}
shift $(($# < 2 ? $# : 2))

mllama quantize "$checkpoint" "$file" --encoding q4_k
exec mllama serve --model-path "$file" "$@"
