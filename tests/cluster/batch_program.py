"""``mllama batch``, whose replicas answer without a model."""

from __future__ import annotations

from typing import Any

import mllama.cluster.dataset_replica
import mllama.cluster.nodes
from mllama.cli.main import main
from tests.cluster.line_engines import EchoEngine


def check_room(ray: Any, cluster: Any, engine: Any) -> None:
    mllama.cluster.nodes.check_room(ray.nodes(), cluster)


if __name__ == "__main__":
    mllama.cluster.dataset_replica.ReplicaEngine = EchoEngine  # type: ignore[misc,assignment]
    mllama.cluster.nodes.check_nodes = check_room
    main()
