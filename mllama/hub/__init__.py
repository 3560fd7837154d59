"""Downloads of models from Hugging Face's hub.

The hub's client reads the environment when it is imported.  It is imported inside
functions only, after :func:`mllama.utils.telemetry.disable_telemetry` has run.
"""
