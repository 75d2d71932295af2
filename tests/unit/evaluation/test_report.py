"""The report of made-up runs: oracles are the numbers and names that the fixture wrote."""
