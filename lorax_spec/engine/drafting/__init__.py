"""Who guesses the next tokens, for which sequences, and how far."""
