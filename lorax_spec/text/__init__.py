"""Between text and token ids, on both ends of the engine.  No torch, no transformers."""
