"""Compares this project with its alternatives on one machine: `make bench`."""
