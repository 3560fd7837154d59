"""``mllama quantize``: quantizes a checkpoint to one GGUF file."""

from __future__ import annotations

from pathlib import Path

import click

from mllama.cli.options import options_of
from mllama.cli.sections import SectionedCommand


@click.command(cls=SectionedCommand)
@click.argument("source", metavar="SRC", type=click.Path())
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@options_of("quantize")
def quantize(
    source: str,
    target: Path,
    encoding: str,
    lora_path: str | None,
    huggingface_model_revision: str | None,
    force_download: bool,
) -> None:
    """Quantize the checkpoint SRC, a directory or a repository of the hub, to the GGUF
    file DST.

    The file also contains configuration, tokenizer and chat template, so it is all that
    --model-path needs.

    \b
    mllama quantize meta-llama/Llama-3.2-11B-Vision-Instruct llama.gguf
    mllama quantize Llama-3.2-11B-Vision-Instruct mine.gguf --lora-path adapter
    mllama serve --model-path llama.gguf
    """
    from mllama.errors import MllamaError
    from mllama.hub.download import download_model
    from mllama.hub.options import HubOptions
    from mllama.utils.byte_progress import ByteProgress
    from mllama.utils.max_threads import limit_spinning
    from mllama.utils.telemetry import disable_telemetry
    from mllama.weights.checkpoint import open_checkpoint
    from mllama.weights.gguf.writing import write_gguf
    from mllama.weights.lora.adapter import check_values, open_adapter
    from mllama.weights.lora.surroundings import (
        check_is_not_adapter,
        has_adapter,
        unused_adapter_note,
    )

    if target.suffix != ".gguf":
        raise MllamaError(f"{target} must be named *.gguf")
    if not target.parent.is_dir():
        raise MllamaError(f"there is no directory {target.parent}")
    limit_spinning()
    disable_telemetry()  # MAX and the hub's client read the environment at import.
    downloaded = download_model(
        source,
        options=HubOptions(huggingface_model_revision, force_download=force_download),
        gguf=False,
        quiet=False,
    )
    directory = Path(downloaded.model)
    check_is_not_adapter(directory)
    notes = downloaded.notes
    if has_adapter(directory):
        notes = (unused_adapter_note(directory),)
    for note in notes if lora_path is None else ():
        click.echo(f"mllama: {note}", err=True)
    checkpoint = open_checkpoint(directory)
    checkpoint.check_quantized()
    if lora_path is not None:
        adapter = open_adapter(Path(lora_path), checkpoint.config)
        check_values(adapter)
        checkpoint = adapter.merged_into(checkpoint)
    with ByteProgress(f"quantizing to {encoding}") as progress:
        write_gguf(checkpoint, target, encoding, progress.show)
