"""The options of the model, each described once, as in ``option.py``."""

from __future__ import annotations

from typing import Final

from mllama.launch.defaults import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_CE_BATCH_SIZE,
    DEFAULT_SPECULATE,
    SPECULATE_CHOICES,
)
from mllama.launch.option import COMPUTE, IMAGES, MODEL, Option, Taker

_ANY_RUN: Final[tuple[Taker, ...]] = (
    "generate",
    "chat",
    "batch",
    "explain",
    "serve",
    "cluster serve",
    "LLM",
)
_ANY_GRAPHS: Final[tuple[Taker, ...]] = (
    "generate",
    "chat",
    "batch",
    "explain",
    "serve",
    "cluster serve",
    "compile",
    "LLM",
)
_ANY_PROCESS: Final = tuple(taker for taker in _ANY_RUN if taker != "cluster serve")
"""Those whose model runs on this machine."""

_ANY_CHECKPOINT: Final[tuple[Taker, ...]] = (*_ANY_GRAPHS, "quantize")

_CACHE_ENCODINGS: Final = ("auto", "float32", "bfloat16", "int8")

LORA_PATH: Final = Option(
    name="lora_path",
    section=MODEL,
    takers=_ANY_CHECKPOINT,
    kind="path",
    metavar="DIR",
    description="Directory of a LoRA adapter, as PEFT writes it: adapter_config.json "
    "and adapter_model.safetensors. The adapter is merged into the weights.",
    default_text="no adapter",
)

MODEL_OPTIONS: Final = (
    Option(
        name="model_path",
        section=MODEL,
        takers=_ANY_GRAPHS,
        kind="path",
        metavar="PATH",
        alias="--model",
        description="Model to load: a directory in Hugging Face layout, a GGUF file, "
        "ollama:NAME from Ollama's store, or a repository of the Hugging Face hub, "
        "OWNER/NAME, which is downloaded.",
        default_text="the small demo model that ships with this package",
    ),
    Option(
        name="weight_path",
        section=MODEL,
        takers=_ANY_GRAPHS,
        kind="path",
        metavar="FILE",
        repeatable=True,
        default=(),
        description="File to read the weights from instead of the model's own: a path, "
        "a file of the model's repository, or OWNER/NAME/FILE.",
        default_text="the model's own files",
    ),
    LORA_PATH,
    Option(
        name="draft_model_path",
        section=MODEL,
        takers=_ANY_GRAPHS,
        kind="path",
        metavar="PATH",
        description="Model that guesses tokens with --speculate draft: a text-only "
        "Llama with the model's own tokenizer, such as Llama 3.2 1B. It never sees a "
        "picture.",
        details="A directory, a GGUF file, ollama:NAME, OWNER/NAME of the Hugging Face "
        "hub, or OWNER/NAME/FILE for one of several files there.",
        default_text="no draft model",
    ),
    Option(
        name="draft_model_revision",
        section=MODEL,
        takers=_ANY_GRAPHS,
        kind="text",
        metavar="REVISION",
        description="Branch, tag or commit of the draft model's repository on the hub.",
        default_text="main",
    ),
    Option(
        name="chat_template",
        section=MODEL,
        takers=_ANY_RUN,
        kind="path",
        metavar="FILE",
        description="Jinja file with the chat template, or a JSON file with it under "
        "chat_template. Base models have none.",
        default_text="the checkpoint's",
    ),
    Option(
        name="tool_parser",
        section=MODEL,
        takers=_ANY_RUN,
        kind="text",
        choices=("auto", "llama3_json", "pythonic", "llama"),
        default="auto",
        description="Form in which the model calls tools: llama3_json, pythonic, or "
        "auto for either. llama is MAX's name of llama3_json. Forced calls are JSON in "
        "any case.",
    ),
    Option(
        name="huggingface_model_revision",
        section=MODEL,
        takers=_ANY_CHECKPOINT,
        kind="text",
        metavar="REVISION",
        description="Branch, tag or commit of the repository on the hub.",
        default_text="main",
    ),
    Option(
        name="huggingface_weight_revision",
        section=MODEL,
        takers=("serve", "cluster serve"),
        kind="text",
        metavar="REVISION",
        description="Branch, tag or commit of the weights, if it is another one.",
        default_text="the model's revision; main for weights of another repository",
    ),
    Option(
        name="force_download",
        section=MODEL,
        takers=_ANY_CHECKPOINT,
        kind="flag",
        default=False,
        description="Download files from the hub even if they are in its cache.",
        default_text="",
    ),
    Option(
        name="trust_remote_code",
        section=MODEL,
        takers=_ANY_GRAPHS,
        kind="flag",
        default=False,
        description="Allow custom Python code of the checkpoint's tokenizer to run.",
        details="Without it, a checkpoint that needs such code is refused.",
        default_text="",
    ),
    Option(
        name="devices",
        section=COMPUTE,
        takers=_ANY_GRAPHS,
        kind="text",
        metavar="DEVICES",
        description="Where to run: cpu, gpu, one GPU by its number (gpu:N or gpu-N), "
        "or several that share the model (gpu:0,1, gpu-0,gpu-1 or gpu:all).",
        default_text="the first GPU, or the CPU if there is none",
    ),
    Option(
        name="quantization_encoding",
        section=COMPUTE,
        takers=_ANY_GRAPHS,
        kind="text",
        metavar="ENCODING",
        description="Data type or GGUF block format of the weights: float32, bfloat16, "
        "q4_0, q4_k or q6_k on a CPU; bfloat16 or float32 on a GPU.",
        default_text="bfloat16 on a GPU; on a CPU the GGUF file's own format, q4_k for "
        "a bfloat16 or float16 checkpoint, float32 for a float32 checkpoint",
    ),
    Option(
        name="vision_encoding",
        section=COMPUTE,
        takers=_ANY_GRAPHS,
        kind="text",
        metavar="ENCODING",
        description="int8 runs the vision encoder and projector in int8 (W8A8), which "
        "is faster, most of all on CPUs with VNNI.",
        details="One scale per output channel for weights and one per token for "
        "activations. With AVX512-BF16 the vision encoder's attention runs in bfloat16 "
        "as well. Only on a CPU.",
        default_text="floats",
    ),
    Option(
        name="max_length",
        section=COMPUTE,
        takers=_ANY_GRAPHS,
        kind="count",
        metavar="N",
        description="Longest sequence in tokens, prompt and answer together.",
        default_text="the model's limit",
    ),
    Option(
        name="max_batch_size",
        section=COMPUTE,
        takers=_ANY_GRAPHS,
        kind="count",
        metavar="N",
        default=1,
        python_default_text=f"{DEFAULT_BATCH_SIZE['cpu']} on a CPU, "
        f"{DEFAULT_BATCH_SIZE['gpu']} on a GPU",
        description="Requests processed concurrently; further requests wait.",
        details="Each concurrent request reserves KV-cache memory.",
    ),
    Option(
        name="max_ce_batch_size",
        section=COMPUTE,
        takers=_ANY_GRAPHS,
        kind="count",
        metavar="N",
        default=DEFAULT_CE_BATCH_SIZE,
        description="Requests whose prompts are prefilled in one step, at most.",
    ),
    Option(
        name="num_threads",
        section=COMPUTE,
        takers=_ANY_RUN,
        kind="integer",
        metavar="N",
        description="CPU threads that compute and compile.",
        details="Needs Linux. MAX creates its threads once in a process, so a second "
        "LLM shares those of the first.",
        default_text="one for each core",
    ),
    Option(
        name="serialized_model_path",
        section=COMPUTE,
        takers=_ANY_RUN,
        kind="path",
        metavar="DIR",
        description="Directory of a compiled model to load instead of compiling. It "
        "must fit the model, its encoding and this machine.",
        default_text="the graphs in the cache, compiled where they are missing",
    ),
    Option(
        name="save_to_serialized_model_path",
        section=COMPUTE,
        takers=_ANY_PROCESS,
        kind="path",
        metavar="DIR",
        description="Directory to write the compiled model to.",
        details="Startup continues afterwards.",
        default_text="the cache alone",
    ),
    Option(
        name="enable_overlap_scheduler",
        section=COMPUTE,
        takers=_ANY_RUN,
        kind="flag",
        default=False,
        description="Unverified on any GPU: start a step before the tokens of the last "
        "one have been read.",
        details="MAX's overlap scheduler. Only on a GPU. Requests that ask for log "
        "probabilities or a format are refused.",
        default_text="",
    ),
    Option(
        name="device_graph_capture",
        section=COMPUTE,
        takers=_ANY_RUN,
        kind="flag",
        default=False,
        description="Unverified on any GPU: capture decode steps as device graphs at "
        "the start, and replay them.",
        details="CUDA graphs, by MAX, for each number of requests up to 128. Only on a "
        "GPU. Implies enable_overlap_scheduler.",
        default_text="",
    ),
    Option(
        name="greedy_on_gpu",
        section=COMPUTE,
        takers=_ANY_RUN,
        kind="flag",
        default=False,
        description="Unverified on any GPU: choose the tokens of greedy batches with a "
        "small graph that needs nothing from the host.",
        details="Only on a GPU. Other batches use MAX's sampler.",
        default_text="",
    ),
    Option(
        name="speculate",
        section=COMPUTE,
        takers=_ANY_GRAPHS,
        kind="text",
        choices=SPECULATE_CHOICES,
        description="Guess the next tokens of answers and check several in one step: "
        "lookup finds them in the prompt and the answer so far, draft has a small "
        "model say them.",
        details="Answers are the same token for token, up to rounding. Only on a CPU, "
        "and only as far as it pays.",
        default_text=DEFAULT_SPECULATE["cpu"],
    ),
    Option(
        name="kv_cache_encoding",
        section=COMPUTE,
        takers=_ANY_GRAPHS,
        kind="text",
        choices=_CACHE_ENCODINGS,
        default="auto",
        description="Data type of the KV cache of text on a CPU: float32, bfloat16, "
        "int8, or auto. int8 holds 3.9 times as many tokens as float32 in the same "
        "memory.",
        details="auto is the data type of the activations: float32 beside quantized "
        "weights. int8 has one scale for each head of each token.",
    ),
    Option(
        name="image_cache_encoding",
        section=IMAGES,
        takers=_ANY_GRAPHS,
        kind="text",
        choices=_CACHE_ENCODINGS,
        default="auto",
        description="Data type of the image cache on a CPU: float32, bfloat16, int8, "
        "or auto. int8 holds 1.9 times as many images as bfloat16 in the same memory.",
        details="auto is bfloat16 beside quantized weights, else the data type of the "
        "weights. int8 has one scale for each head of each image token.",
    ),
    Option(
        name="image_cache_size",
        section=IMAGES,
        takers=_ANY_RUN,
        kind="text",
        metavar="SIZE",
        description="Memory for the image cache, which keeps the cross-attention keys "
        "and values of images: bytes, a size such as 4GiB, or a share of the device's "
        "memory such as 0.2.",
        default_text="0.1, or less if that is enough for 32 full-size images and four "
        "for each concurrent request",
    ),
    Option(
        name="max_images_per_request",
        section=IMAGES,
        takers=_ANY_RUN,
        kind="count",
        metavar="N",
        description="Images that one request may contain.",
        default_text="32",
    ),
)
"""Options for loading and running a model, in the order of the commands' help."""
