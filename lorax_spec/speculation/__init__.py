"""Guessing ahead and checking the guesses: draft trees, who draws them, and how they are walked."""
