"""Chat: messages to tokens and back (renderers, parsers) and the append-only token stream (Session)."""
