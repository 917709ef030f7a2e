"""Search: questions whose answer stands in a text corpus, found with a real retrieval index."""
