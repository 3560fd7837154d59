"""The command ``mllama``: one file a command.

Help must come at once, so that MAX and transformers are imported only when a command
runs.
"""
