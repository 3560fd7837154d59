"""The oracle of the parity tests: transformers, and checkpoints made for it.

``checkpoints`` writes small random checkpoints in Hugging Face's layout, ``cases``
names the requests, ``oracle`` answers them with transformers, ``compare`` says how
far two answers may differ.  torch is needed here and nowhere in ``mllama`` itself
(apart from the training of the demo model).
"""
