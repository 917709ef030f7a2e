"""Agent: a small shop in SQLite, changed through typed tools; the verifier looks at the final state."""
