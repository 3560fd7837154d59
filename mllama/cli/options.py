"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mllama.cli.sections import COMPUTE, IMAGES, MODEL, option
from mllama.demo_model import MODEL_PATH
from mllama.launch.defaults import DEFAULT_CE_BATCH_SIZE

USING_DEMO = (
    "mllama: no --model-path given: using the small demo model that ships with this "
    "package, which knows only simple drawn scenes"
)

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

# A path here, or a name elsewhere; shells complete it as a path.
_PATH = click.Path()

_IMAGES: tuple[_Decorator, ...] = (
    option(
        "--image-cache-size",
        section=IMAGES,
        metavar="SIZE",
        help="Memory for images' keys and values: bytes, 4GiB, or 0.2 of the device's "
        "memory.  Default: 0.1, or less if that holds plenty of images.",
    ),
    option(
        "--max-images-per-request",
        section=IMAGES,
        type=click.IntRange(min=1),
        metavar="N",
        help="Most images of one request.  Default: 32.",
    ),
)

_ADAPTER = option(
    "--lora-path",
    section=MODEL,
    type=_PATH,
    metavar="DIR",
    help="Merge this LoRA adapter into the weights: a directory that PEFT has "
    "written, with adapter_config.json and adapter_model.safetensors.",
)

_HUB: tuple[_Decorator, ...] = (
    option(
        "--huggingface-model-revision",
        section=MODEL,
        metavar="REVISION",
        help="Branch, tag or commit of a repository of the hub.  Default: main.",
    ),
    option(
        "--force-download",
        section=MODEL,
        is_flag=True,
        help="Download from the hub what its cache has already.",
    ),
)

_MODEL: tuple[_Decorator, ...] = (
    option(
        "--model-path",
        "--model",
        "model_path",
        section=MODEL,
        type=_PATH,
        metavar="PATH",
        help="Checkpoint: a directory in Hugging Face layout, a GGUF file, ollama:NAME "
        "from Ollama's store, or a repository of the hub, owner/name, which is "
        "downloaded.  Default: the demo model that ships with this package.",
    ),
    option(
        "--weight-path",
        section=MODEL,
        type=_PATH,
        metavar="FILE",
        multiple=True,
        help="Read the weights from this file instead of the checkpoint's: a path, a "
        "file of the model's repository, or owner/name/FILE.  Repeatable.",
    ),
    _ADAPTER,
    *_HUB,
    option(
        "--trust-remote-code",
        section=MODEL,
        is_flag=True,
        help="Let the checkpoint's own Python code run, if its tokenizer has any.",
    ),
)

_COMPUTE: tuple[_Decorator, ...] = (
    option(
        "--devices",
        section=COMPUTE,
        metavar="DEVICES",
        help="cpu, gpu, a GPU by its number, gpu:N or gpu-N, or several that share the "
        "model: gpu:0,1, gpu-0,gpu-1 or gpu:all.  Default: the first GPU, or the CPU.",
    ),
    option(
        "--quantization-encoding",
        section=COMPUTE,
        metavar="ENCODING",
        help="float32, bfloat16, q4_0, q4_k or q6_k on a CPU, bfloat16 or float32 on a "
        "GPU.  Default: bfloat16 on a GPU; on a CPU a GGUF file's own, q4_k for a "
        "checkpoint of bfloat16, float32 for one of float32.",
    ),
    option(
        "--vision-encoding",
        section=COMPUTE,
        metavar="ENCODING",
        help="int8: the vision side's matrices are bytes, which CPUs with AVX-512 "
        "VNNI multiply faster, and with AVX512-BF16 its attention is rounded too.  "
        "Default: floats.",
    ),
    option(
        "--max-length",
        section=COMPUTE,
        type=click.IntRange(min=1),
        metavar="N",
        help="Longest sequence, prompt and answer, in tokens.  Default: the model's "
        "limit.",
    ),
    option(
        "--max-batch-size",
        section=COMPUTE,
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Conversations worked on together; others wait.",
    ),
    option(
        "--max-ce-batch-size",
        section=COMPUTE,
        type=click.IntRange(min=1),
        default=DEFAULT_CE_BATCH_SIZE,
        show_default=True,
        metavar="N",
        help="Of these, most whose prompts are read in one step.",
    ),
)

_START: tuple[_Decorator, ...] = (
    option(
        "--num-threads",
        section=COMPUTE,
        type=int,
        metavar="N",
        help="Threads that the CPU computes with.  Default: one for each core.",
    ),
    option(
        "--serialized-model-path",
        section=COMPUTE,
        type=_PATH,
        metavar="DIR",
        help="Start from this compiled model, without compiling; refused if it was "
        "compiled for another start.",
    ),
    option(
        "--save-to-serialized-model-path",
        section=COMPUTE,
        type=_PATH,
        metavar="DIR",
        help="Write the compiled model to this directory, then go on.",
    ),
)


def adapter_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the adapter, for any command that reads a checkpoint."""
    return _ADAPTER(command)


def hub_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds how a repository of the hub is fetched."""
    return _added(command, _HUB)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what says which model is loaded and how."""
    return _added(command, (*_MODEL, *_COMPUTE, *_START, *_IMAGES))


def graph_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what says which graphs a model has."""
    return _added(command, (*_MODEL, *_COMPUTE))


def _added(
    command: Callable[..., Any], options: tuple[_Decorator, ...]
) -> Callable[..., Any]:
    for each in reversed(options):
        command = each(command)
    return command


def model_or_demo(model_path: str | None) -> str:
    """The model that was asked for, or the demo model, which is said on stderr."""
    if model_path is None:
        click.echo(USING_DEMO, err=True)
        return str(MODEL_PATH)
    return model_path
