"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mllama.demo import MODEL_PATH
from mllama.engine.defaults import DEFAULT_CE_BATCH_SIZE

USING_DEMO = (
    "mllama: no --model-path given: using the small demo model that ships with this "
    "package, which knows only simple drawn scenes"
)


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what bounds images, for any command that loads a model."""
    limit = click.option(
        "--max-images-per-request",
        type=click.IntRange(min=1),
        metavar="N",
        help="Most images of one request.  Default: 32.",
    )
    size = click.option(
        "--image-cache-size",
        metavar="SIZE",
        help="Memory for images' keys and values: bytes, 4GiB, or 0.2 of the device's "
        "memory.  Default: 0.1, or less if that holds plenty of images.",
    )
    return size(limit(command))


def adapter_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the adapter, for any command that reads a checkpoint."""
    return click.option(
        "--lora-path",
        metavar="DIR",
        help="Merge this LoRA adapter into the weights: a directory that PEFT has "
        "written, with adapter_config.json and adapter_model.safetensors.",
    )(command)


def compiled_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds where the compiled model is kept, for any command that starts a model."""
    read = click.option(
        "--serialized-model-path",
        metavar="DIR",
        help="Start from this compiled model, without compiling; refused if it was "
        "compiled for another start.",
    )
    write = click.option(
        "--save-to-serialized-model-path",
        metavar="DIR",
        help="Write the compiled model to this directory, then go on.",
    )
    return read(write(command))


def batch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds how many requests are worked on together."""
    rows = click.option(
        "--max-batch-size",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Requests worked on together; others wait.",
    )
    prompts = click.option(
        "--max-ce-batch-size",
        type=click.IntRange(min=1),
        default=DEFAULT_CE_BATCH_SIZE,
        show_default=True,
        metavar="N",
        help="Most requests whose prompts are read in one step; never more than "
        "--max-batch-size.",
    )
    return rows(prompts(command))


def hub_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds how a repository of the hub is fetched."""
    revision = click.option(
        "--huggingface-model-revision",
        metavar="REVISION",
        help="Branch, tag or commit of a repository of the hub.  Default: main.",
    )
    force = click.option(
        "--force-download",
        is_flag=True,
        help="Download from the hub what its cache has already.",
    )
    return revision(force(command))


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what says which model is loaded and how."""
    command = hub_options(command)
    for option in reversed(
        (
            click.option(
                "--model-path",
                metavar="PATH",
                help="Checkpoint: a directory in Hugging Face layout, a GGUF file, "
                "ollama:NAME from Ollama's store, or a repository of the hub, "
                "owner/name, which is downloaded.  Default: the demo model that ships "
                "with this package.",
            ),
            click.option(
                "--weight-path",
                metavar="FILE",
                multiple=True,
                help="Read the weights from this file instead of the checkpoint's: a "
                "path, a file of the model's repository, or owner/name/FILE.  "
                "Repeatable.",
            ),
            adapter_option,
            click.option(
                "--devices",
                metavar="DEVICE",
                help="cpu, gpu or gpu:N.  Default: the first GPU, or the CPU.",
            ),
            click.option(
                "--quantization-encoding",
                metavar="ENCODING",
                help="float32, bfloat16, q4_0, q4_k or q6_k on a CPU, bfloat16 or "
                "float32 on a GPU.  Default: bfloat16 on a GPU; on a CPU a GGUF file's "
                "own, q4_k for a checkpoint of bfloat16, float32 for one of float32.",
            ),
            click.option(
                "--max-length",
                type=click.IntRange(min=1),
                metavar="N",
                help="Longest sequence, prompt and answer, in tokens.  "
                "Default: the model's limit.",
            ),
        )
    ):
        command = option(command)
    return command


def model_or_demo(model_path: str | None) -> str:
    """The model that was asked for, or the demo model, which is said on stderr."""
    if model_path is None:
        click.echo(USING_DEMO, err=True)
        return str(MODEL_PATH)
    return model_path
