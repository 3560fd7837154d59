"""Options of ``mllama batch``, and of ``mllama serve`` for the batches of clients."""

from __future__ import annotations

from typing import Final

from mllama.cli.option_sections import BATCHES, CLUSTER, OUTPUT
from mllama.launch.option import QUESTION, Option

BATCH_OPTIONS: Final = (
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
        name="ray",
        section=CLUSTER,
        takers=("batch",),
        kind="flag",
        description="Have the replicas of a Ray cluster answer, which are started for "
        "this batch.",
        details="Needs pip install 'mllama[cluster]'.",
    ),
    Option(
        name="retry_errors",
        section=OUTPUT,
        takers=("batch",),
        kind="flag",
        description="Ask lines again whose answer in OUT is an error. The errors are "
        "removed from OUT first.",
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

SERVED_BATCH_OPTIONS: Final = (
    Option(
        name="batch_dir",
        section=BATCHES,
        takers=("serve", "cluster serve"),
        kind="path",
        metavar="DIR",
        description="Offer OpenAI's /v1/files and /v1/batches, and keep their files in "
        "this folder. Batches use what other requests leave free.",
        default_text="no batches",
    ),
    Option(
        name="batch_max_file_size",
        section=BATCHES,
        takers=("serve", "cluster serve"),
        kind="text",
        metavar="SIZE",
        description="Largest file that a client may upload.",
        default_text="200MiB",
    ),
    Option(
        name="batch_max_lines",
        section=BATCHES,
        takers=("serve", "cluster serve"),
        kind="count",
        metavar="N",
        description="Lines that a batch may have.",
        default_text="50000",
    ),
    Option(
        name="batch_max_files",
        section=BATCHES,
        takers=("serve", "cluster serve"),
        kind="count",
        metavar="N",
        description="Files that the server keeps, those of answers included; at least "
        "3. Of more batches than that, the oldest that have ended are forgotten.",
        default_text="1000",
    ),
    Option(
        name="batch_max_disk",
        section=BATCHES,
        takers=("serve", "cluster serve"),
        kind="text",
        metavar="SIZE",
        description="Size of all files together.",
        default_text="10GiB",
    ),
)
