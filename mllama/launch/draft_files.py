"""Finds and checks the files of the draft model, before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path

from mllama.config import MllamaConfig
from mllama.errors import MllamaError
from mllama.hub.download import download_model, is_repository
from mllama.hub.file_selection import WEIGHT_SUFFIXES
from mllama.hub.model_kind import DRAFT_MODEL
from mllama.hub.options import HubOptions
from mllama.launch.model_files import ModelFiles
from mllama.weights.checkpoint import open_checkpoint
from mllama.weights.encodings import Encoding, check_runnable, choose_encoding
from mllama.weights.gguf.checkpoint import (
    check_tensors,
    encoding_reason,
    main_encoding,
    open_llama_gguf,
    quantized_formats,
)
from mllama.weights.llama_config import LlamaConfig
from mllama.weights.lora.surroundings import check_is_not_adapter
from mllama.weights.ollama.ggml_llama import read_llama_config
from mllama.weights.ollama.links import is_readable_file, with_gguf_suffix
from mllama.weights.ollama.store import PREFIX, find_blob
from mllama.weights.quantization_plan import GGUF_ENCODINGS, quantization_plan
from mllama.weights.quantized.settings import check_quantization
from mllama.weights.token_texts import (
    TokenTexts,
    gguf_token_texts,
    read_token_texts,
)

_WAY_OUT = "use a text-only Llama with the model's own tokenizer, such as Llama 3.2 1B"


def resolve_draft_files(
    draft: str,
    target: ModelFiles,
    *,
    device_type: str,
    revision: str | None = None,
    force_download: bool = False,
    quiet: bool = True,
) -> ModelFiles:
    """Returns the files of a draft model, checked.

    Args:
        draft: A directory in Hugging Face layout, a GGUF file, ``ollama:NAME`` from
            Ollama's store, or a repository of the hub or a file of one.
        target: The files of the model that it guesses for.
        device_type: ``cpu`` or ``gpu``.
        revision: Branch, tag or commit of the repository.
        force_download: Whether to download files that are in the hub's cache.
        quiet: Whether to hide the progress of downloads.

    Returns:
        The files; ``model`` is the GGUF file if there is one.

    Raises:
        MllamaError: If it is no text-only Llama, is incomplete, or has another
            tokenizer.
    """
    try:
        hub = HubOptions(revision, force_download=force_download and is_on_hub(draft))
        return _resolve(draft, target, device_type, hub, quiet)
    except MllamaError as error:
        message = str(error).replace(
            "choose one with --weight-path", "name one as OWNER/NAME/FILE"
        )
        raise MllamaError(f"--draft-model-path {draft}: {message}") from error


def is_on_hub(draft: str) -> bool:
    """Returns True if a draft model is in a repository of the hub."""
    return is_repository(_split_file(draft)[0])


def _resolve(
    draft: str, target: ModelFiles, device_type: str, hub: HubOptions, quiet: bool
) -> ModelFiles:
    check = _TokenizerCheck(target)
    if draft.startswith(PREFIX):
        draft = str(find_blob(draft))
    repository, file = _split_file(draft)
    downloaded = download_model(
        repository,
        file,
        hub,
        check=check.vocabulary,
        check_files=check.directory,
        quiet=quiet,
        kind=DRAFT_MODEL,
    )
    path = Path(downloaded.model).absolute()
    weights = tuple(Path(name).absolute() for name in downloaded.weight_path)
    if is_readable_file(path):
        weights = weights or (path,)
    elif not path.is_dir():
        raise MllamaError("it is neither a directory, a GGUF file, nor a repository")
    gguf = [with_gguf_suffix(name) for name in weights]
    if gguf and gguf[0].suffix == ".gguf":
        return _gguf_files(gguf[0], check, device_type)
    check_is_not_adapter(path)
    return _safetensors_files(path, weights, check, device_type)


class _TokenizerCheck:
    """Checks that a draft model has the tokenizer of the model."""

    def __init__(self, target: ModelFiles) -> None:
        self._target = target

    def vocabulary(self, config: MllamaConfig) -> None:
        """Checks the size of the vocabulary."""
        own = config.text_config.vocab_size
        others = self._target.config.text_config.vocab_size
        if own != others:
            raise MllamaError(
                f"its vocabulary has {own} tokens, and the model's {others}; {_WAY_OUT}"
            )

    def directory(self, directory: Path) -> None:
        """Checks the small files of a checkpoint."""
        check_quantization(directory)
        self.texts(read_token_texts(directory))

    def texts(self, texts: TokenTexts) -> None:
        """Checks the tokens."""
        others = read_token_texts(self._target.model)
        vocabulary = self._target.config.text_config.vocab_size
        token = texts.difference(others, vocabulary)
        if token is not None:
            raise MllamaError(
                f"its tokenizer is another one: token {token} is {texts.text(token)}, "
                f"and the model's {others.text(token)}; {_WAY_OUT}"
            )


def _split_file(draft: str) -> tuple[str, tuple[str, ...]]:
    """Returns a repository and a file of it; without a file, what was named."""
    parts = draft.split("/")
    if (
        len(parts) > 2
        and draft.endswith(WEIGHT_SUFFIXES)
        and not Path(draft).exists()
        and is_repository("/".join(parts[:2]))
    ):
        return "/".join(parts[:2]), ("/".join(parts[2:]),)
    return draft, ()


def _gguf_files(path: Path, check: _TokenizerCheck, device_type: str) -> ModelFiles:
    """Returns the files of a draft model in one GGUF file."""
    file = open_llama_gguf(path)
    config = read_llama_config(file)
    check.vocabulary(config)
    check.texts(gguf_token_texts(file))
    check_tensors(file, config)
    name = main_encoding(file)
    if name not in GGUF_ENCODINGS:
        encoding = choose_encoding(None, device_type, "float32", config)
    else:
        check_runnable(name, device_type)
        encoding = Encoding(name, device_type, encoding_reason(file))
    return ModelFiles(path, (path,), config, encoding, quantized_formats(file, config))


def _safetensors_files(
    path: Path, weights: tuple[Path, ...], check: _TokenizerCheck, device_type: str
) -> ModelFiles:
    """Returns the files of a checkpoint, marked for quantization if it needs it."""
    check.vocabulary(LlamaConfig.from_path(path))
    check.directory(path)
    checkpoint = open_checkpoint(path, weights, read_config=LlamaConfig.from_path)
    checkpoint.check_quantized()
    config = checkpoint.config
    encoding = choose_encoding(None, device_type, checkpoint.dtype, config)
    is_quantized = encoding.name in GGUF_ENCODINGS
    return ModelFiles(
        path,
        () if is_quantized else tuple(checkpoint.files),
        config,
        encoding,
        quantization_plan(config, encoding.name),
        unquantized=checkpoint if is_quantized else None,
    )
