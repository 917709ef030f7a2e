"""Search: questions whose answer is in a text corpus, found with a real retrieval index."""
