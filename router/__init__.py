"""The front: text in, text out, in a process without torch."""
