"""All that a server has for batches: its routes, and what runs them."""

from __future__ import annotations

from fastapi import APIRouter

from mllama.server.arrival.shared_memory import SharedMemory
from mllama.server.batches.batch_routes import BatchRoutes
from mllama.server.batches.body import BatchBody
from mllama.server.batches.file_routes import FileRoutes
from mllama.server.batches.line_answers import LineAnswers
from mllama.server.batches.spare_slots import BatchEngineClient, QueueState, SpareSlots
from mllama.server.batches.stores import BatchStores
from mllama.server.batches.worker import BatchWorker
from mllama.server.capabilities import ServerCapabilities
from mllama.server.engine_client import EngineClient
from mllama.server.image_fetcher import ImageFetcher
from mllama.server.observed_engine import ObservedEngineClient

BODIES = (BatchBody,)
"""The bodies of the routes, for the API's schema."""


class BatchService:
    """Files and batches of clients.

    Attributes:
        worker: Runs batches while its context is active.
        router: The routes.

    Args:
        stores: Files and batches on the disk.
        engine: Answers requests, with a queue before it.
        queue: The queue.
        capabilities: Features and limits of the server.
        fetcher: Gets images from URLs.
        memory: The memory that lines share with the server's other requests.
    """

    def __init__(
        self,
        stores: BatchStores,
        engine: EngineClient,
        queue: QueueState,
        capabilities: ServerCapabilities,
        fetcher: ImageFetcher,
        memory: SharedMemory,
    ) -> None:
        client = BatchEngineClient(ObservedEngineClient(engine))
        answers = LineAnswers(client, capabilities, fetcher, memory)
        self.worker = BatchWorker(stores, answers, SpareSlots(queue))
        self.router = APIRouter(tags=["OpenAI"])
        FileRoutes(stores).add_to(self.router)
        BatchRoutes(stores, self.worker).add_to(self.router)
