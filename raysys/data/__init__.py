"""From raw logs to sequences and samples; Arrow and NumPy only."""
