"""Repositories of Hugging Face's hub: what of them is fetched, and how.

The hub's client reads its environment as it is imported, so that it is imported inside
functions only, after telemetry was switched off.
"""
