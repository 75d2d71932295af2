"""Search spaces, trials on disk and what a search tells; without Ray."""
