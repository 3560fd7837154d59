"""Answers a question about each row of a dataset of Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from mllama.batch.destination import Destination
from mllama.batch.parquet_output import COLUMNS, answers_table
from mllama.batch.results import answered, failed
from mllama.batch.run import BatchCounts, BatchRun, TooManyErrors, unanswered
from mllama.batch.seen_ids import SeenIds
from mllama.cluster.dataset_pool import TRIES, start_pool
from mllama.cluster.dataset_replica import (
    LineEngine,
    ReplicaEngine,
    StartEngine,
    answered_or_ended,
    node_address,
)
from mllama.cluster.dataset_rows import DatasetRows, LineOfRow
from mllama.cluster.options import ClusterOptions
from mllama.cluster.replica import START_ERROR, ReplicaStartError
from mllama.errors import MllamaError
from mllama.launch.options import EngineOptions
from mllama.utils.event_loops import run_coroutine

if TYPE_CHECKING:
    from ray.data import Dataset

_READING_CPUS: Final = 1
"""CPUs that must be left for the tasks which read the rows, or nothing goes on."""

_BATCH_ROWS: Final = 16
"""Rows of a batch.  A replica works on four batches at a time, each of which may have
photos of megabytes."""


def answer(
    dataset: Dataset,
    *,
    prompt: str | None = None,
    image_column: str | None = "image",
    prompt_column: str | None = None,
    id_column: str | None = None,
    system: str | None = None,
    fields: Mapping[str, Any] | None = None,
    replicas: int = 1,
    replica_cpus: float = 1,
    replica_gpus: float | None = None,
    model_name: str | None = None,
    **engine: Any,
) -> Dataset:
    """Returns a dataset with the answer to a question about each row's picture.

    Nothing is asked before the result is read or written, and then the rows stream
    through the replicas.  Ray starts a replica that dies anew, and asks again what it
    had not answered, up to three times; then reading or writing the result fails with
    Ray's error.

    Args:
        dataset: The rows.
        prompt: The question.
        image_column: The column with the pictures: bytes, URLs, arrays of pixels, the
            objects with ``bytes`` of Hugging Face's data sets, or lists of these; None
            if there are none.
        prompt_column: The column with a question for each row, instead of ``prompt``.
        id_column: The column with the ``custom_id`` of each row; without it they are
            null.
        system: A system prompt.
        fields: Further fields of OpenAI's chat requests, such as ``max_tokens``.
        replicas: Number of replicas.
        replica_cpus: CPUs that each reserves.
        replica_gpus: GPUs that each reserves and runs on; None is as many as the
            devices are.
        model_name: The name of the model in the answers.
        **engine: Options of ``EngineOptions``, such as ``model_path``.

    Returns:
        The rows with the columns ``custom_id``, ``status_code``, ``text``,
        ``finish_reason``, ``prompt_tokens``, ``completion_tokens``, ``response`` and
        ``error``, as in the Parquet files of ``mllama batch``.

    Raises:
        MllamaError: If the question can't be asked, or the replicas can't be had.
    """
    rows = DatasetRows(
        dataset, prompt, image_column, prompt_column, id_column, system, fields
    )
    taken = [name for name in COLUMNS if name in rows.columns]
    if taken:
        raise MllamaError(
            f"the dataset has a column {taken[0]!r}, as the answers have: rename it"
        )
    cluster, start = _checked(
        ClusterOptions(
            replicas=replicas, replica_cpus=replica_cpus, replica_gpus=replica_gpus
        ),
        model_name,
        engine,
    )
    return answer_with(dataset, rows.line, cluster, start)


def answer_with(
    dataset: Dataset, line_of: LineOfRow, cluster: ClusterOptions, start: StartEngine
) -> Dataset:
    """Returns a dataset with answers.

    Args:
        dataset: The rows.
        line_of: Makes a line of a row and its number.
        cluster: How many replicas there are, and what each has.
        start: Starts an engine in a replica's process.
    """
    return dataset.map_batches(
        _AnswerBatches,
        fn_constructor_args=(start, line_of),
        batch_size=_BATCH_ROWS,
        batch_format="pyarrow",
        concurrency=cluster.replicas,
        num_cpus=cluster.replica_cpus,
        num_gpus=cluster.replica_gpus or 0,
        # Ray Data's own number has no end.
        max_task_retries=TRIES,
    )


class _AnswerBatches:
    """Answers batches of rows, in an actor of Ray Data."""

    def __init__(self, start: StartEngine, line_of: LineOfRow) -> None:
        self._line_of = line_of
        self._number = 0
        try:
            self._engine: LineEngine = start()
        except MllamaError as error:
            # Ray passes on the text of this error only.
            raise ReplicaStartError(
                f"{START_ERROR}node {node_address()}: {' '.join(str(error).split())}"
            ) from None

    async def __call__(self, table: Any) -> Any:
        rows = await asyncio.to_thread(table.to_pylist)
        results = await asyncio.gather(*map(self._answer, rows))
        answers = answers_table(results)
        for name in answers.column_names:
            table = table.append_column(name, answers.column(name))
        return table

    async def _answer(self, row: dict[str, Any]) -> bytes:
        self._number += 1
        line = await asyncio.to_thread(self._line_of, row, self._number)
        if line.error is not None:
            # Each replica counts its own rows, which says nothing to anybody.
            return failed(line, line.error, is_numbered=False)
        return answered(line, await answered_or_ended(self._engine, line))


def answer_into(
    dataset: Dataset,
    output: str,
    *,
    id_column: str,
    prompt: str | None = None,
    image_column: str | None = "image",
    prompt_column: str | None = None,
    system: str | None = None,
    fields: Mapping[str, Any] | None = None,
    output_format: Literal["jsonl", "parquet"] | None = None,
    shard_lines: int | None = None,
    retry_errors: bool = False,
    max_errors: int | None = 100,
    replicas: int = 1,
    replica_cpus: float = 1,
    replica_gpus: float | None = None,
    model_name: str | None = None,
    **engine: Any,
) -> BatchCounts:
    """Writes the answers as ``mllama batch`` does, and asks none again that is there.

    The rows stream through this process, which writes each answer when it has come.
    After a kill, call it again.

    Args:
        dataset: The rows.
        output: A file ``*.jsonl``, or a folder with shards, on this machine.
        id_column: The column with the ``custom_id`` of each row.
        prompt: The question, as in :func:`answer`.
        image_column: The column with the pictures, as there.
        prompt_column: The column with a question for each row, instead of ``prompt``.
        system: A system prompt.
        fields: Further fields of OpenAI's chat requests.
        output_format: The format of the shards; None is JSONL.
        shard_lines: Answers in each shard; None is a default.
        retry_errors: Whether to ask rows again whose answer in the output is an error.
        max_errors: The most rows that may fail; None is any number.
        replicas: Number of replicas.
        replica_cpus: CPUs that each reserves.
        replica_gpus: GPUs that each reserves and runs on, as in :func:`answer`.
        model_name: The name of the model in the answers.
        **engine: Options of ``EngineOptions``, such as ``model_path``.

    Returns:
        How many rows have been read, answered, and left out.

    Raises:
        MllamaError: If the question can't be asked, the replicas can't be had, the
            output not be written, or too many rows fail.
        RuntimeError: If the replicas have failed.
    """
    rows = DatasetRows(
        dataset, prompt, image_column, prompt_column, id_column, system, fields
    )
    cluster, start = _checked(
        ClusterOptions(
            replicas=replicas, replica_cpus=replica_cpus, replica_gpus=replica_gpus
        ),
        model_name,
        engine,
    )
    destination = Destination(output, output_format, shard_lines)
    seen, counts = SeenIds(), BatchCounts()
    with destination.opened(seen, retry_errors=retry_errors) as writer:

        async def run() -> None:
            import ray

            pool = await start_pool(ray, cluster, start, Path())
            batch = BatchRun(
                unanswered(rows.lines(), seen, counts),
                pool,
                writer,
                counts,
                concurrency=2 * pool.slots,
                max_errors=max_errors,
            )
            try:
                await batch.run()
            finally:
                pool.end()

        try:
            run_coroutine(run())
        except TooManyErrors as error:
            raise MllamaError(
                f"more than {max_errors} rows failed, the first one so: {error}; "
                f"{output} has their errors"
            ) from None
    return counts


def _checked(
    cluster: ClusterOptions, model_name: str | None, engine: Mapping[str, Any]
) -> tuple[ClusterOptions, StartEngine]:
    """Returns the cluster and what starts an engine, after a check of the nodes.

    Raises:
        MllamaError: If the replicas don't fit, or a node can't load the model.
    """
    import ray

    from mllama.cluster.nodes import check_nodes
    from mllama.server.model_names import served_name

    try:
        options = EngineOptions(**engine)
    except TypeError as error:
        raise MllamaError(f"no such option: {error}") from None
    cluster, options = cluster.for_engine(options)
    check_nodes(ray, cluster, options)
    needed = cluster.replicas * cluster.replica_cpus + _READING_CPUS
    found = ray.cluster_resources().get("CPU", 0)
    if found < needed:
        raise MllamaError(
            f"{cluster.replicas} replicas of {cluster.replica_cpus:g} CPUs each, and "
            f"one CPU that reads the rows, need {needed:g} CPUs, and the cluster has "
            f"{found:g}: use fewer replicas, or less replica_cpus"
        )
    name = served_name(model_name, options.model)
    return cluster, partial(ReplicaEngine, options, name, str(Path.cwd()))
