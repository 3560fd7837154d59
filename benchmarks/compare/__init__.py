"""This project beside its alternatives, in one run on one machine: `make bench`."""
