"""Torch parts that more than one model uses."""
