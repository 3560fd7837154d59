"""The oracle of the parity tests: transformers, and checkpoints made for it.

``checkpoints`` writes small random checkpoints in Hugging Face's layout (``configs``,
``weights``, ``text_files``), ``cases`` defines the requests, ``oracle`` answers them
with transformers under Meta's semantics, and ``compare`` compares two answers.
``adapters`` writes LoRA adapters with PEFT.  Nothing here imports code of ``mllama``.
"""
