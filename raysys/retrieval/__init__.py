"""From vectors, tables or codes to candidates: the narrow waist between models and metrics."""
