"""The draft model: a text-only Llama that guesses tokens for the model.

``settings`` names its files, ``weights`` reads them, ``network`` and ``graph`` are its
graph, ``cache`` keeps its keys and values, and ``model`` runs it.
"""
