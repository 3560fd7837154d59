"""The options that belong to one command, and those of all commands together.

Those of the model, of prompts and of answers are in ``mllama/launch``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from mllama.launch.defaults import DEFAULT_QUEUE_SIZE, DEFAULT_SHUTDOWN_TIMEOUT
from mllama.launch.model_options import MODEL_OPTIONS
from mllama.launch.option import ANSWER, COMPUTE, MODEL, QUESTION, Option
from mllama.launch.prompt_options import PROMPT_OPTIONS
from mllama.launch.sampling_options import SAMPLING_OPTIONS

SERVER: Final = "Server"
ACCESS: Final = "Access"
OUTPUT: Final = "Output"
BATCHES: Final = "Batches"

OLLAMA_PORT: Final = 11434
"""The port on which Ollama's clients expect it."""

_GENERATE_QUESTION: Final = (
    Option(
        name="prompt",
        section=QUESTION,
        takers=("generate", "explain"),
        kind="text",
        description="The question.",
    ),
    Option(
        name="images",
        flag="--image",
        section=QUESTION,
        takers=("generate", "chat", "explain"),
        kind="path",
        metavar="IMAGE",
        repeatable=True,
        description="An image to show before the question: a path, an http(s) URL or a "
        "data URL.",
    ),
    Option(
        name="system",
        section=QUESTION,
        takers=("generate", "chat", "explain"),
        kind="text",
        description="A system prompt.",
    ),
    Option(
        name="raw",
        section=QUESTION,
        takers=("generate",),
        kind="flag",
        description="Continue the prompt as it is, without the chat template. "
        "<|image|> in it stands for an image.",
    ),
    Option(
        name="prompt_token_ids",
        section=QUESTION,
        takers=("generate",),
        kind="text",
        metavar="IDS",
        description="Ids of tokens to continue, separated by commas, instead of "
        "--prompt.",
    ),
    Option(
        name="messages",
        section=QUESTION,
        takers=("generate",),
        kind="path",
        metavar="FILE",
        description="A JSON file instead of --prompt, --image and --system: a list of "
        "OpenAI-style messages, or a list of such conversations, which are answered "
        "together. An image_url may be a path relative to the file. - reads stdin.",
    ),
)

_BATCH: Final = (
    Option(
        name="prompt",
        section=QUESTION,
        takers=("batch",),
        kind="text",
        description="The question about each picture.",
    ),
    Option(
        name="prompt_column",
        section=QUESTION,
        takers=("batch",),
        kind="text",
        metavar="NAME",
        description="Column of Parquet files with a question for each row, or the end "
        "of the names of such files in tar files, such as txt, instead of --prompt.",
    ),
    Option(
        name="image_column",
        section=QUESTION,
        takers=("batch",),
        kind="text",
        metavar="NAME",
        description="Column of Parquet files with the pictures, or the end of their "
        "names in tar files.",
        details="An empty name means that the rows have none.",
        default_text="image in Parquet files, any end that pictures have in tar files",
    ),
    Option(
        name="id_column",
        section=QUESTION,
        takers=("batch",),
        kind="text",
        metavar="NAME",
        description="Column of Parquet files with the custom_id of each row.",
        default_text="the file's name and the row's number",
    ),
    Option(
        name="system",
        section=QUESTION,
        takers=("batch",),
        kind="text",
        description="A system prompt for each question.",
    ),
    Option(
        name="max_errors",
        section=OUTPUT,
        takers=("batch",),
        kind="integer",
        metavar="N",
        default=100,
        description="Lines that may fail before the batch ends; -1 is any number.",
        details="Each has its error in the output, and isn't asked again. Errors of "
        "earlier runs don't count.",
    ),
    Option(
        name="output_format",
        section=OUTPUT,
        takers=("batch",),
        kind="text",
        choices=("jsonl", "parquet"),
        description="Format of the output. Parquet needs a folder.",
        default_text="jsonl",
    ),
    Option(
        name="shard_lines",
        section=OUTPUT,
        takers=("batch",),
        kind="count",
        metavar="N",
        description="Answers in each file of an output that is a folder.",
        default_text="100000",
    ),
    Option(
        name="quiet",
        section=OUTPUT,
        takers=("batch",),
        kind="flag",
        description="Hide the progress, which goes to stderr.",
    ),
)

_EXPLAIN: Final = (
    Option(
        name="layers",
        section=OUTPUT,
        takers=("explain",),
        kind="text",
        metavar="LAYERS",
        default="all",
        description="The cross-attention layers whose heads are shown: all, last, or "
        "their numbers, separated by commas.",
    ),
    Option(
        name="heads",
        section=OUTPUT,
        takers=("explain",),
        kind="text",
        metavar="HEADS",
        default="localizing",
        description="The heads that maps are the mean of: localizing (the clearest "
        "one), all, numbers, or LAYER.HEAD, separated by commas.",
    ),
    Option(
        name="with_prompt",
        section=OUTPUT,
        takers=("explain",),
        kind="flag",
        description="Show the words of the prompt too.",
    ),
    Option(
        name="output",
        section=OUTPUT,
        takers=("explain",),
        kind="path",
        metavar="FILE",
        required=True,
        description="File to write, by its ending: .html (hover over a word), .png (a "
        "panel for each word) or .json.",
    ),
)

_CHAT: Final = (
    Option(
        name="url",
        section=SERVER,
        takers=("chat",),
        kind="text",
        metavar="URL",
        description="Chat with a server of OpenAI's API instead of a model in this "
        "process, such as http://127.0.0.1:8000. --model is the model's name there.",
        details="Without --model, it is the first model that the server lists.",
        default_text="a model in this process",
    ),
    Option(
        name="api_key",
        section=SERVER,
        takers=("chat",),
        kind="text",
        metavar="KEY",
        description="Key for the server.",
        default_text="OPENAI_API_KEY of the environment",
    ),
    Option(
        name="verbose",
        section=OUTPUT,
        takers=("chat",),
        kind="flag",
        description="Show token counts and times after each answer.",
    ),
    Option(
        name="no_history",
        section=OUTPUT,
        takers=("chat",),
        kind="flag",
        description="Neither read nor write the file with the lines of earlier chats.",
    ),
)

_GENERATE_ANSWER: Final = (
    Option(
        name="output_format",
        flag="--format",
        section=ANSWER,
        takers=("generate",),
        kind="text",
        choices=("text", "json"),
        default="text",
        description="text streams the answer. json prints one object per conversation, "
        "each on a line, with token counts and times.",
    ),
)


def _for_requests(option: Option, default: int) -> Option:
    return replace(
        option,
        takers=("serve",),
        default=default,
        default_text=None,
        request_field=None,
        details="",
        description=f"For requests that don't set {option.request_field}: "
        f"{option.description[0].lower()}{option.description[1:]}",
    )


_SAMPLING_BY_NAME: Final = {option.name: option for option in SAMPLING_OPTIONS}

_SERVE_ANSWER: Final = (
    _for_requests(_SAMPLING_BY_NAME["max_new_tokens"], default=-1),
    replace(
        _for_requests(_SAMPLING_BY_NAME["top_k"], default=1),
        details="With the default, a request that sets temperature, top_p, min_p or "
        "seed samples from all tokens.",
    ),
)

_SERVE: Final = (
    Option(
        name="no_background_compilation",
        section=COMPUTE,
        takers=("serve",),
        kind="flag",
        description="Don't compile faster graphs for this CPU in the background, at "
        "the lowest priority and for the next run, while the server uses graphs that "
        "ship for any CPU.",
    ),
    Option(
        name="served_model_name",
        section=SERVER,
        takers=("serve", "batch"),
        kind="text",
        metavar="NAME",
        description="Name of the model in requests.",
        default_text="the repository's id, or the folder's name",
    ),
    Option(
        name="host",
        section=SERVER,
        takers=("serve",),
        kind="text",
        description="Interface to listen on.",
        default_text="127.0.0.1",
    ),
    Option(
        name="port",
        section=SERVER,
        takers=("serve",),
        kind="integer",
        description="Port to listen on.",
        default_text="8000",
    ),
    Option(
        name="uds",
        section=SERVER,
        takers=("serve",),
        kind="path",
        metavar="FILE",
        description="Unix socket to listen on, instead of --host and --port.",
    ),
    Option(
        name="api_key",
        section=ACCESS,
        takers=("serve",),
        kind="text",
        metavar="KEY",
        repeatable=True,
        description="Key of which each request must send one, as `Authorization: "
        "Bearer KEY` or `x-api-key: KEY`. The variable MLLAMA_API_KEY may have keys "
        "too, with commas between them, and hides them from other users.",
        default_text="no key is needed",
    ),
    Option(
        name="api_key_file",
        section=ACCESS,
        takers=("serve",),
        kind="path",
        metavar="FILE",
        description="File with such a key in each line.",
    ),
    Option(
        name="admin_key",
        section=ACCESS,
        takers=("serve",),
        kind="text",
        metavar="KEY",
        repeatable=True,
        description="Key that opens POST /reset_prefix_cache, which doesn't exist "
        "without one; or the variable MLLAMA_ADMIN_KEY.",
    ),
    Option(
        name="cors_origin",
        section=ACCESS,
        takers=("serve",),
        kind="text",
        metavar="ORIGIN",
        repeatable=True,
        description="Origin of web pages that may use the server, such as "
        "https://example.org; * is any.",
        default_text="only the server's own pages",
    ),
    Option(
        name="allowed_host",
        section=ACCESS,
        takers=("serve",),
        kind="text",
        metavar="NAME",
        repeatable=True,
        description="Further name by which a server that listens on loopback may be "
        "called, beside loopback names, *.internal, *.local and this machine's name.",
    ),
    Option(
        name="root_path",
        section=ACCESS,
        takers=("serve",),
        kind="text",
        metavar="PATH",
        default="",
        description="Path under which a proxy has the server, such as /llama.",
    ),
    Option(
        name="ssl_certfile",
        section=ACCESS,
        takers=("serve",),
        kind="path",
        metavar="FILE",
        description="Certificate with its chain, in PEM. The server then speaks HTTPS.",
    ),
    Option(
        name="ssl_keyfile",
        section=ACCESS,
        takers=("serve",),
        kind="path",
        metavar="FILE",
        description="The certificate's private key, if it is not in the same file.",
    ),
    Option(
        name="ssl_keyfile_password",
        section=ACCESS,
        takers=("serve",),
        kind="text",
        metavar="PASSWORD",
        description="The private key's password.",
    ),
    Option(
        name="ollama",
        section=SERVER,
        takers=("serve",),
        kind="flag",
        description=f"Listen on port {OLLAMA_PORT}, where clients of Ollama expect it, "
        "unless --port names another.",
        details="Ollama's API is served on any port.",
    ),
    Option(
        name="max_queue_size",
        section=SERVER,
        takers=("serve",),
        kind="integer",
        metavar="N",
        description="Requests that may wait for the model. The server answers 429 to "
        "further ones. 0 takes no more than --max-batch-size at a time.",
        default_text=str(DEFAULT_QUEUE_SIZE),
    ),
    Option(
        name="max_pending_requests",
        section=SERVER,
        takers=("serve",),
        kind="integer",
        metavar="N",
        description="MAX's other name of --max-queue-size.",
        default_text="that of --max-queue-size",
    ),
    Option(
        name="metrics_port",
        section=SERVER,
        takers=("serve",),
        kind="integer",
        metavar="PORT",
        description="Further port, of --host, that has only /metrics and needs no key; "
        "0 is any that is free.",
        default_text="/metrics is on --port only",
    ),
    Option(
        name="max_worker_restarts",
        section=SERVER,
        takers=("serve",),
        kind="integer",
        metavar="N",
        description="Model workers in a row that may die within a minute of their "
        "start before the server ends with exit code 1.",
        details="A worker that dies is replaced at once, and then after 1, 2, 4 ... 60 "
        "seconds.",
        default_text="no limit",
    ),
    Option(
        name="no_standby_worker",
        section=SERVER,
        takers=("serve",),
        kind="flag",
        description="Keep no process ready to replace the model worker: that saves "
        "about 165 MB of memory, and takes ten seconds more when the worker has died.",
    ),
    Option(
        name="log_format",
        section=SERVER,
        takers=("serve",),
        kind="text",
        choices=("text", "json"),
        description="json makes each line of the log a JSON object.",
        default_text="text, or json if MODULAR_STRUCTURED_LOGGING is set",
    ),
    Option(
        name="no_access_log",
        section=SERVER,
        takers=("serve",),
        kind="flag",
        description="Log no line for each request.",
    ),
    Option(
        name="max_time_to_first_token",
        section=SERVER,
        takers=("serve",),
        kind="number",
        metavar="SECONDS",
        description="Refuse a request with 429 before any work on it if its first "
        "token is expected later, by the progress that has been measured.",
        default_text="no limit",
    ),
    Option(
        name="shutdown_timeout",
        section=SERVER,
        takers=("serve",),
        kind="integer",
        metavar="SECONDS",
        description="How long requests in progress may go on after SIGTERM or Ctrl-C. "
        "The rest ends with an error.",
        default_text=str(DEFAULT_SHUTDOWN_TIMEOUT),
    ),
    Option(
        name="batch_dir",
        section=BATCHES,
        takers=("serve",),
        kind="path",
        metavar="DIR",
        description="Offer OpenAI's /v1/files and /v1/batches, and keep their files in "
        "this folder. Batches use what other requests leave free.",
        default_text="no batches",
    ),
    Option(
        name="batch_max_file_size",
        section=BATCHES,
        takers=("serve",),
        kind="text",
        metavar="SIZE",
        description="Largest file that a client may upload.",
        default_text="200MiB",
    ),
    Option(
        name="batch_max_lines",
        section=BATCHES,
        takers=("serve",),
        kind="count",
        metavar="N",
        description="Lines that a batch may have.",
        default_text="50000",
    ),
    Option(
        name="batch_max_files",
        section=BATCHES,
        takers=("serve",),
        kind="count",
        metavar="N",
        description="Files that the server keeps, those of answers included.",
        default_text="1000",
    ),
    Option(
        name="batch_max_disk",
        section=BATCHES,
        takers=("serve",),
        kind="text",
        metavar="SIZE",
        description="Size of all files together.",
        default_text="10GiB",
    ),
    Option(
        name="log_prefix",
        section=SERVER,
        takers=("serve",),
        kind="text",
        description="Text before every line of the log.",
    ),
    Option(
        name="config_file",
        section=SERVER,
        takers=("serve",),
        kind="path",
        metavar="FILE",
        description="YAML file with further options. Those of the command line win.",
    ),
)

_COMPILE: Final = (
    Option(
        name="target",
        section=COMPUTE,
        takers=("compile",),
        kind="text",
        metavar="TARGET",
        description="Compile for this kind of device, which this machine need not "
        "have: cpu:x86-64-v3 (any CPU with AVX2), cpu:cascadelake (AVX-512 and VNNI), "
        "or in bfloat16 cuda:sm_90, hip:gfx942, ... --devices says how many GPUs share "
        "the model.",
        default_text="this machine",
    ),
    Option(
        name="output",
        section=OUTPUT,
        takers=("compile",),
        kind="path",
        metavar="DIR",
        required=True,
        description="Directory to write the compiled model to.",
    ),
)

_QUANTIZE: Final = (
    Option(
        name="encoding",
        section=MODEL,
        takers=("quantize",),
        kind="text",
        choices=("q4_0", "q4_k", "q6_k"),
        default="q4_k",
        description="GGUF block format of the text matrices; the vision weights become "
        "float16.",
    ),
)

ALL_OPTIONS: Final = (
    *_QUANTIZE,
    *MODEL_OPTIONS,
    *_COMPILE,
    *_GENERATE_QUESTION,
    *PROMPT_OPTIONS,
    *SAMPLING_OPTIONS,
    *_EXPLAIN,
    *_GENERATE_ANSWER,
    *_SERVE_ANSWER,
    *_SERVE,
    *_CHAT,
    *_BATCH,
)
"""Every option of this package's commands and of ``LLM``, in the order of the help."""
