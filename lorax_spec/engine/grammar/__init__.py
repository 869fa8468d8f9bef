"""Output that must follow a grammar: JSON, a JSON schema, a regular expression, a choice."""
