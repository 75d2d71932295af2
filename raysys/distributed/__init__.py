"""Where it runs: the only package folder that imports ray."""
