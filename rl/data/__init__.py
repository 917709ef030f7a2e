"""What is trained on: demonstrations, corpora, sequences."""
