"""``python -m lorax_spec.cli``: how ``serve`` starts its children, with or without a PATH."""

from lorax_spec.cli.app import main

main()
