"""Times the sampler on the host beside MAX's graph.

``python -m benchmarks.sampling`` chooses the tokens of batches at the published models'
vocabulary, by this package's sampler and by MAX's in turn.  A time includes what either
prepares in each step.  The processor time of all threads is next to it, and before both
stands how long MAX's two graphs took to load.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from max.driver import CPU, Buffer
from max.engine import InferenceSession
from max.graph import DeviceRef
from max.pipelines.context import SamplingParams, TextContext, TokenBuffer
from max.pipelines.context.logit_processors_type import BatchProcessorInputs
from max.pipelines.lib.log_probabilities import (
    _LOGPROBS_HEAP_LEVELS,
    log_probabilities_ragged_graph,
)
from max.pipelines.sampling import SamplingConfig

from mllama.max_compat.model import FusedSamplingProcessor, load_sampler_graphs
from mllama.max_model.log_probabilities import prompt_logits_per_step
from mllama.max_model.sampling_context import PROMPT_LENGTH
from mllama.runtime.host_sampler import HostSamplingProcessor
from mllama.sampling.log_probabilities import (
    token_log_probabilities,
    token_log_probability,
)

VOCABULARY = 128_256
LENGTH = 1000
"""Tokens so far of each request, half of them of the answer."""

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"top_k": 1},
    "temperature": {"temperature": 0.7},
    "top-p 0.9": {"top_p": 0.9},
    "top-k 50": {"top_k": 50},
    "top-k 50, top-p 0.9, min-p": {"top_k": 50, "top_p": 0.9, "min_p": 0.05},
    "penalties, top-p 0.9": {
        "top_p": 0.9,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.1,
    },
}


def model_logits(requests: int, spread: float) -> np.ndarray:
    """Returns logits of a few likely tokens among many that are not.

    Args:
        requests: Size of the batch.
        spread: Standard deviation of all logits; a small one needs thousands of tokens
            for a top-p.
    """
    rng = np.random.default_rng(0)
    logits = rng.normal(0, spread, (requests, VOCABULARY)).astype(np.float32)
    if spread > 1:
        logits[:, rng.integers(0, VOCABULARY, 40)] += 12
    return logits


def context(settings: dict[str, Any], seed: int) -> Any:
    """Returns a request in the middle of its answer."""
    tokens = TokenBuffer(np.arange(LENGTH // 2))
    made = TextContext(
        max_length=8192,
        tokens=tokens,
        sampling_params=SamplingParams(seed=seed, **settings),
    )
    for token in range(LENGTH // 2):
        tokens.advance_with_token(token)
    made.extra_model_args = {PROMPT_LENGTH: np.array([LENGTH // 2])}
    return made


def configuration(*, penalties: bool) -> Any:
    """Returns the part of MAX's configuration that samplers read."""
    return SimpleNamespace(
        sampling=SamplingConfig(enable_penalties=penalties),
        needs_bitmask_constraints=False,
    )


def choosing(
    processor: type, sampler: Any, config: Any, contexts: list[Any], logits: np.ndarray
) -> Callable[[], Any]:
    """Returns the sampling of a step."""

    def choose() -> Any:
        made = processor(sampler, config, contexts, CPU(), vocab_size=VOCABULARY)
        made(
            BatchProcessorInputs(
                logits=Buffer.from_numpy(logits),
                logit_offsets=None,
                context_batch=contexts,
            )
        )
        return made.new_tokens.to_numpy()

    return choose


def measured(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Returns the medians of each call's wall and processor time, in milliseconds."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(0.003)  # MAX's threads spin for a while after each of its runs.
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: np.median(taken, axis=0) * 1e3 for name, taken in times.items()}


@contextmanager
def reported(name: str) -> Iterator[None]:
    """Prints how long a ``with`` block took."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name}: {wall:.1f} s, {cpu:.1f} s of a core", flush=True)


def main() -> None:
    """Prints a line for each setting and batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    rounds = parser.parse_args().rounds
    session = InferenceSession(devices=[CPU()])
    samplers = {}
    for penalties in (False, True):
        with reported(f"MAX's sampler, penalties {penalties}"):
            _, loaded = load_sampler_graphs(
                session,
                configuration(penalties=penalties),
                DeviceRef.CPU(),
                VOCABULARY,
            )
            samplers[penalties] = loaded["sampler"]
    with reported("MAX's log probabilities"):
        session.load(
            log_probabilities_ragged_graph(
                DeviceRef.CPU(), levels=_LOGPROBS_HEAP_LEVELS
            )
        )
    print(f"{'milliseconds':44}{'host':>8}{'(CPU)':>8}{'MAX':>8}{'(CPU)':>8}")
    for shape, spread in (("peaked", 1.5), ("flat", 0.5)):
        for name, settings in SETTINGS.items():
            for requests in (1, 4):
                penalties = "frequency_penalty" in settings
                logits = model_logits(requests, spread)
                contexts = [context(settings, seed) for seed in range(requests)]
                config = configuration(penalties=penalties)
                found = measured(
                    {
                        "host": choosing(
                            HostSamplingProcessor, None, config, contexts, logits
                        ),
                        "max": choosing(
                            FusedSamplingProcessor,
                            samplers[penalties],
                            config,
                            contexts,
                            logits.copy(),
                        ),
                    },
                    rounds,
                )
                (host, host_cpu), (max_, max_cpu) = found["host"], found["max"]
                print(
                    f"{shape:7}{name:28}{requests:2} requests"
                    f"{host:8.2f}{host_cpu:8.2f}{max_:8.2f}{max_cpu:8.2f}",
                    flush=True,
                )
    row = model_logits(1, 1.5)[0]
    for count in (1, 20, VOCABULARY):
        found = measured({"host": lambda n=count: token_log_probability(row, 5, n)}, 9)
        print(f"{count} log probabilities: {found['host'][1]:.2f}")
    prompt = model_logits(prompt_logits_per_step(VOCABULARY), 1.5)
    tokens = np.arange(len(prompt))
    for count in (0, 20):
        found = measured(
            {"host": lambda n=count: token_log_probabilities(prompt, tokens, n)}, 3
        )
        print(
            f"{count} log probabilities for each of {len(prompt)} tokens of a prompt: "
            f"{found['host'][1]:.0f}"
        )


if __name__ == "__main__":
    main()
