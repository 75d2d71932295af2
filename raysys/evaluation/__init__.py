"""Metrics, interest health and the report."""
