"""What an adapter is: its formats, where it comes from, and where its weights lie now."""
