"""raysys: candidate retrieval at scale on Ray, from behaviour logs to an evaluated, sharded index."""

__version__ = "0.1.0"
