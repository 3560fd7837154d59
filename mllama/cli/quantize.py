"""``mllama quantize``: a checkpoint to one GGUF file."""

from __future__ import annotations

from pathlib import Path

import click

from mllama.cli.options import adapter_option
from mllama.engine.model_files import QuantisingBar
from mllama.weights.quantisation_plan import BLOCK_ENCODINGS


@click.command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option(
    "--encoding",
    type=click.Choice(BLOCK_ENCODINGS),
    default="q4_k",
    show_default=True,
    help="Format of the text side's matrices; vision stays float16.",
)
@adapter_option
def quantize(source: Path, target: Path, encoding: str, lora_path: str | None) -> None:
    """Quantise the checkpoint in the directory SRC to the GGUF file DST.

    The file also holds configuration, tokenizer and chat template: it alone is enough
    for --model-path.

    \b
    mllama quantize Llama-3.2-11B-Vision-Instruct llama.gguf
    mllama quantize Llama-3.2-11B-Vision-Instruct mine.gguf --lora-path adapter
    mllama serve --model-path llama.gguf
    """
    from mllama.errors import MllamaError
    from mllama.privacy import turn_telemetry_off
    from mllama.weights.adapter import check_values, open_adapter
    from mllama.weights.checkpoint import open_checkpoint
    from mllama.weights.gguf_writing import write_gguf

    if target.suffix != ".gguf":
        raise MllamaError(f"{target} must be named *.gguf")
    if not target.parent.is_dir():
        raise MllamaError(f"there is no directory {target.parent}")
    turn_telemetry_off()  # MAX reads the environment as it is imported.
    checkpoint = open_checkpoint(source)
    if lora_path is not None:
        adapter = open_adapter(Path(lora_path), checkpoint.config)
        check_values(adapter)
        checkpoint = adapter.merged_into(checkpoint)
    with QuantisingBar(f"mllama: quantising to {encoding}", quiet=False) as bar:
        write_gguf(checkpoint, target, encoding, bar.show)
