"""How the figures grow: with jobs, with ticks a second, with replicas, and with rows of the ledger."""
