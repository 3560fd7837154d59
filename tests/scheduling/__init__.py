"""Tests of many concurrent requests, driven step by step."""
