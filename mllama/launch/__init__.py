"""Resolves what a user names to files, devices and options."""
