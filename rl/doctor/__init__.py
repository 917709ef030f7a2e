"""Silent faults of a run, found from what it writes down: detectors, their limits, and who applies them."""
