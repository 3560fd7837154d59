"""Compilation of models ahead of time, also for GPUs that this machine lacks."""
