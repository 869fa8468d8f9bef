"""Generated from ``proto/lorax_spec/v1`` by ``make proto``; not edited by hand."""
