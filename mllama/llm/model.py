"""A model in this process: its options, its image cache and its end."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path

from mllama.engine.engine import Engine
from mllama.image_cache.stats import ImageCacheStats
from mllama.launch.defaults import DEFAULT_CE_BATCH_SIZE
from mllama.launch.options import EngineOptions
from mllama.llm.answering import Answering
from mllama.utils.telemetry import disable_telemetry


# The descriptions of options in this file are written by `python -m docs.reference`.
class LLM(Answering):
    """A model that is loaded into this process and answers questions about images.

    A context manager::

        from mllama import LLM

        with LLM("meta-llama/Llama-3.2-11B-Vision-Instruct", max_length=8192) as llm:
            output = llm.generate("What is in the picture?", images=["photo.jpg"])
            print(output.text)

    Threads may share an ``LLM``: their requests, and the conversations of a list, run
    together, up to ``max_batch_size`` at a time.  Unless its compiled graphs ship, the
    first run of a model compiles them, which takes minutes; later runs load them from
    the cache.

    Args:
        model_path: Model to load: a directory in Hugging Face layout, a GGUF file,
            ollama:NAME from Ollama's store, or a repository of the Hugging Face hub,
            OWNER/NAME, which is downloaded. Default: the small demo model that ships
            with this package.
        max_batch_size: Requests processed concurrently; further requests wait. Each
            concurrent request reserves KV-cache memory. Default: 4 on a CPU, 16 on a
            GPU.
        max_ce_batch_size: Requests whose prompts are prefilled in one step, at most.
            Default: 32.
        max_length: Longest sequence in tokens, prompt and answer together. Default: the
            model's limit.
        devices: Where to run: cpu, gpu, one GPU by its number (gpu:N or gpu-N), or
            several that share the model (gpu:0,1, gpu-0,gpu-1 or gpu:all). Default: the
            first GPU, or the CPU if there is none.
        num_threads: CPU threads that compute and compile. Needs Linux. MAX creates its
            threads once in a process, so a second LLM shares those of the first.
            Default: one for each core.
        quantization_encoding: Data type or GGUF block format of the weights: float32,
            bfloat16, q4_0, q4_k or q6_k on a CPU; bfloat16 or float32 on a GPU.
            Default: bfloat16 on a GPU; on a CPU the GGUF file's own format, q4_k for a
            bfloat16 or float16 checkpoint, float32 for a float32 checkpoint.
        vision_encoding: int8 runs the vision encoder and projector in int8 (W8A8),
            which is faster, most of all on CPUs with VNNI. One scale per output channel
            for weights and one per token for activations. With AVX512-BF16 the vision
            encoder's attention runs in bfloat16 as well. Only on a CPU. Default:
            floats.
        weight_path: File to read the weights from instead of the model's own: a path, a
            file of the model's repository, or OWNER/NAME/FILE. Default: the model's own
            files.
        lora_path: Directory of a LoRA adapter, as PEFT writes it: adapter_config.json
            and adapter_model.safetensors. The adapter is merged into the weights.
            Default: no adapter.
        chat_template: Jinja file with the chat template, or a JSON file with it under
            chat_template. Base models have none. Default: the checkpoint's.
        tool_parser: Form in which the model calls tools: llama3_json, pythonic, or auto
            for either. llama is MAX's name of llama3_json. Forced calls are JSON in any
            case. Default: auto.
        enable_overlap_scheduler: Unverified on any GPU: start a step before the tokens
            of the last one have been read. MAX's overlap scheduler. Only on a GPU.
            Requests that ask for log probabilities or a format are refused.
        device_graph_capture: Unverified on any GPU: capture decode steps as device
            graphs at the start, and replay them. CUDA graphs, by MAX, for each number
            of requests up to 128. Only on a GPU. Implies enable_overlap_scheduler.
        greedy_on_gpu: Unverified on any GPU: choose the tokens of greedy batches with a
            small graph that needs nothing from the host. Only on a GPU. Other batches
            use MAX's sampler.
        speculate: Guess the next tokens of answers and check several in one step:
            lookup finds them in the prompt and the answer so far, draft has a small
            model say them. Answers are the same token for token, up to rounding. Only
            on a CPU, and only as far as it pays. Default: off.
        draft_model_path: Model that guesses tokens with --speculate draft: a text-only
            Llama with the model's own tokenizer, such as Llama 3.2 1B. It never sees a
            picture. A directory, a GGUF file, ollama:NAME, OWNER/NAME of the Hugging
            Face hub, or OWNER/NAME/FILE for one of several files there. Default: no
            draft model.
        draft_model_revision: Branch, tag or commit of the draft model's repository on
            the hub. Default: main.
        kv_cache_encoding: Data type of the KV cache of text on a CPU: float32,
            bfloat16, int8, or auto. int8 holds 3.9 times as many tokens as float32 in
            the same memory. auto is the data type of the activations: float32 beside
            quantized weights. int8 has one scale for each head of each token. Default:
            auto.
        image_cache_encoding: Data type of the image cache on a CPU: float32, bfloat16,
            int8, or auto. int8 holds 1.9 times as many images as bfloat16 in the same
            memory. auto is bfloat16 beside quantized weights, else the data type of the
            weights. int8 has one scale for each head of each image token. Default:
            auto.
        image_cache_size: Memory for the image cache, which keeps the cross-attention
            keys and values of images: bytes, a size such as 4GiB, or a share of the
            device's memory such as 0.2. Default: 0.1, or less if that is enough for 32
            full-size images and four for each concurrent request.
        max_images_per_request: Images that one request may contain. Default: 32.
        huggingface_model_revision: Branch, tag or commit of the repository on the hub.
            Default: main.
        force_download: Download files from the hub even if they are in its cache.
        trust_remote_code: Allow custom Python code of the checkpoint's tokenizer to
            run. Without it, a checkpoint that needs such code is refused.
        serialized_model_path: Directory of a compiled model to load instead of
            compiling. It must fit the model, its encoding and this machine. Default:
            the graphs in the cache, compiled where they are missing.
        save_to_serialized_model_path: Directory to write the compiled model to. Startup
            continues afterwards. Default: the cache alone.
        quiet: Hide the progress of loading, which goes to stderr. Default: False.

    Raises:
        MllamaError: If the checkpoint can't be served, an option is out of range, or
            the machine lacks a device or memory.
    """

    def __init__(
        self,
        model_path: str | Path | None = None,
        *,
        max_batch_size: int | None = None,
        max_ce_batch_size: int = DEFAULT_CE_BATCH_SIZE,
        max_length: int | None = None,
        devices: str | None = None,
        num_threads: int | None = None,
        quantization_encoding: str | None = None,
        vision_encoding: str | None = None,
        weight_path: str | Path | Sequence[str | Path] = (),
        lora_path: str | Path | None = None,
        chat_template: str | Path | None = None,
        tool_parser: str = "auto",
        enable_overlap_scheduler: bool = False,
        device_graph_capture: bool = False,
        greedy_on_gpu: bool = False,
        speculate: str | None = None,
        draft_model_path: str | Path | None = None,
        draft_model_revision: str | None = None,
        image_cache_encoding: str = "auto",
        kv_cache_encoding: str = "auto",
        image_cache_size: str | int | None = None,
        max_images_per_request: int | None = None,
        huggingface_model_revision: str | None = None,
        force_download: bool = False,
        trust_remote_code: bool = False,
        serialized_model_path: str | Path | None = None,
        save_to_serialized_model_path: str | Path | None = None,
        quiet: bool = False,
    ) -> None:
        disable_telemetry()
        if isinstance(weight_path, (str, Path)):
            weight_path = [weight_path]
        options = EngineOptions(
            model_path=model_path,
            weight_path=weight_path,
            lora_path=lora_path,
            chat_template=chat_template,
            tool_parser=tool_parser,
            quantization_encoding=quantization_encoding,
            vision_encoding=vision_encoding,
            devices=devices,
            num_threads=num_threads,
            max_batch_size=max_batch_size,
            max_ce_batch_size=max_ce_batch_size,
            max_length=max_length,
            enable_overlap_scheduler=enable_overlap_scheduler,
            device_graph_capture=device_graph_capture,
            greedy_on_gpu=greedy_on_gpu,
            speculate=speculate,
            draft_model_path=draft_model_path,
            draft_model_revision=draft_model_revision,
            image_cache_encoding=image_cache_encoding,
            kv_cache_encoding=kv_cache_encoding,
            image_cache_size=image_cache_size,
            max_images_per_request=max_images_per_request,
            huggingface_model_revision=huggingface_model_revision,
            force_download=force_download,
            trust_remote_code=trust_remote_code,
            serialized_model_path=serialized_model_path,
            save_to_serialized_model_path=save_to_serialized_model_path,
        )
        super().__init__(Engine(options, quiet=quiet))
        # Also at the end of the program, before the threads are torn down.
        self._close = weakref.finalize(self, self._engine.close)

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends running requests and frees the model.

        Further calls do nothing.  A program that ends closes its models by itself.
        """
        self._close()

    @property
    def image_cache(self) -> ImageCacheStats:
        """Returns a snapshot of the image cache: its size, entries, hits and misses.

        Raises:
            RuntimeError: If the model is closed.
        """
        return self._engine.image_cache_stats()
