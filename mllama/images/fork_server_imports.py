"""Imports what worker processes need, in the process that forks them.

``multiprocessing``'s fork server imports this module once, so that a worker starts at
once and shares the memory of its modules with the others.
"""

from __future__ import annotations

import importlib

from mllama.utils.torch_blocker import block_torch

block_torch()
importlib.import_module("mllama.images.worker_process")
importlib.import_module("mllama.images.preprocess")
