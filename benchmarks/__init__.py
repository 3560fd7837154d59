"""Benchmarks of the times that users wait for; see docs/performance.md."""
