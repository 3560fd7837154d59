"""The command ``mllama``, with one file for each subcommand.

MAX and transformers take seconds to import, so that happens when a command runs, not
when its help is shown.
"""
