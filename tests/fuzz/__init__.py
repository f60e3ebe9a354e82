"""Fuzzing of every parser that takes bytes from outside; see run.py."""
