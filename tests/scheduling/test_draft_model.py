"""A draft model changes no answer, and one that knows them all is always right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mllama.launch.draft_files import resolve_draft_files
from mllama.max_model.draft.model import DraftModel
from mllama.runtime.speculation.draft_proposer import DraftProposer
from mllama.runtime.speculation.speculation import Speculation
from tests.max_model.draft.loading import load, model_files
from tests.reference.llama import write_demo_text_path, write_llama

from .conftest import ask
from .guessed_requests import LONG, Pictures, answers_of, submit_all
from .harness import Scheduled
from .proposers import always_guess
from .test_speculation import expected

__all__ = ["expected"]

QUESTIONS = (
    "What is a circle?",
    "Is a star larger than a square?",
    "Count to ten. " * 30,
)


@pytest.fixture(scope="module")
def drafting(tmp_path_factory: pytest.TempPathFactory) -> Scheduled:
    """A scheduler whose draft model is the demo model's own path of plain texts."""
    folder = write_demo_text_path(tmp_path_factory.mktemp("text_path"))
    return Scheduled(
        max_batch_size=8,
        image_cache_size="16MiB",
        speculate="draft",
        draft_model_path=folder,
    )


@pytest.fixture(scope="module")
def random_draft(tmp_path_factory: pytest.TempPathFactory) -> DraftModel:
    """A draft model that knows nothing."""
    folder = write_llama(tmp_path_factory.mktemp("random"), seed=3)
    files = resolve_draft_files(str(folder), model_files(), device_type="cpu")
    return load(files.draft_settings)


@pytest.fixture
def speculation(drafting: Scheduled) -> Iterator[Speculation]:
    """What the scheduler guesses with, in each step, and afterwards as before."""
    found = drafting.speculation
    assert found is not None
    kept = found._proposer, found.budget
    assert isinstance(found._proposer.proposer, DraftProposer)
    drafting.forget()
    yield always_guess(drafting, found._proposer.proposer)
    found._proposer, found.budget = kept


def cached_requests(speculation: Speculation) -> int:
    proposer = speculation._proposer.proposer
    assert isinstance(proposer, DraftProposer)
    return len(proposer._model.cache._sequences)


def test_answers_are_the_same(
    drafting: Scheduled,
    speculation: Speculation,
    pictures: Pictures,
    expected: list[list[int]],
) -> None:
    requests = submit_all(drafting, pictures)
    drafting.run()
    assert answers_of(requests) == expected
    assert speculation.counts.proposed > LONG
    assert not cached_requests(speculation)


def test_a_draft_model_that_says_the_same_is_always_right(
    drafting: Scheduled, roomy: Scheduled, speculation: Speculation
) -> None:
    """Without images, the demo model is its self-attention layers alone."""
    roomy.forget()
    references = [roomy.submit(ask(text), LONG) for text in QUESTIONS]
    roomy.run()
    before = speculation.counts.proposed, speculation.counts.accepted
    requests = [drafting.submit(ask(text), LONG) for text in QUESTIONS]
    drafting.run()
    assert answers_of(requests) == answers_of(references)
    proposed = speculation.counts.proposed - before[0]
    assert proposed > len(QUESTIONS) * LONG / 2
    assert speculation.counts.accepted - before[1] == proposed
    # A step with four right guesses has five tokens.
    assert all(len(request.outputs) < LONG / 4 for request in requests)


def test_a_draft_model_that_knows_nothing_changes_nothing(
    drafting: Scheduled,
    random_draft: DraftModel,
    speculation: Speculation,
    pictures: Pictures,
    expected: list[list[int]],
) -> None:
    always_guess(drafting, DraftProposer(random_draft, prefill_tokens=16))
    requests = submit_all(drafting, pictures)
    drafting.run()
    assert answers_of(requests) == expected
    assert not cached_requests(speculation)


def test_the_default_budget_changes_no_answer(
    drafting: Scheduled, pictures: Pictures, expected: list[list[int]]
) -> None:
    drafting.forget()
    requests = submit_all(drafting, pictures)
    drafting.run()
    assert answers_of(requests) == expected
