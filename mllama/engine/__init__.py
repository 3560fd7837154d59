"""Runs MAX's pipeline and scheduler in this process."""
