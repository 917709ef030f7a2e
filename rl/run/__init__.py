"""One run's books: its parts, stage cache, ledger, stored batches."""
