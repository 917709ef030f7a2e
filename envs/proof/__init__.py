"""Proofs that are judged: the form of what is written about them, and what a model is asked."""
