from __future__ import annotations

import pytest

from mllama.weights.checkpoint import Checkpoint, open_checkpoint
from tests.reference.checkpoints import checkpoint


@pytest.fixture(scope="module")
def source() -> Checkpoint:
    return open_checkpoint(checkpoint())
