"""Training of Medusa heads on a frozen base model: ``lorax-spec train medusa``."""
