"""Measurements: `python -m benchmarks` prints those that the design names, the other modules look into one thing each.

They hurt, load and fill real replicas and real servers with what the tests have for that.  Nothing here asserts.
"""
