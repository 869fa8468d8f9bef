"""``python -m lorax_spec.router.metrics_page``: the manual's page on metrics.

It is written from what is declared, and kept as docs/metrics.md; a test holds both together.
"""

from __future__ import annotations

import inspect
import re
import textwrap

from lorax_spec.router import metrics

_HEAD = """\
# Metrics

`GET /metrics` on the HTTP port answers in Prometheus's text format. With `--api-key-file` it needs
a key, as everything but the probes does: in Prometheus, `authorization: {credentials: KEY}`. A
dashboard for Grafana is `docker/grafana/dashboard.json`.

"""
_TAIL = """
A cancelled request (its caller left, or its deadline passed) counts with the tokens it got. Times
are of requests that were answered; one that a stop string ends has no queue and prefill times, for
the router ends it before the worker tells them. Tokens per forward pass, over any time:
`rate(lorax_spec_generated_tokens_total[5m]) / rate(lorax_spec_forward_passes_total[5m])`; the share
of guesses that were right, by drafter:
`rate(lorax_spec_accepted_tokens_total[5m]) / rate(lorax_spec_drafted_tokens_total[5m])`.

This page is written by `python -m lorax_spec.router.metrics_page > docs/metrics.md`.
"""


def page() -> str:
    """The whole page, in Markdown."""
    rows = [_row(one) for one in metrics.DECLARED]
    table = ["| metric | kind | labels | what it counts |", "|---|---|---|---|", *rows]
    about = (inspect.getdoc(metrics) or "").split("\n\n", 1)[1]
    about = re.sub(r"``(\S+?)``", r"`\1`", about)
    labels = (
        f"There are figures by adapter for {metrics.MOST_ADAPTERS} adapters at most; the base model"
        " is `__base_model__`, all adapters merged for a request are `merged`."
    )
    text = textwrap.fill(f"{about} {labels}", 100, break_on_hyphens=False)
    return _HEAD + f"{text}\n\n" + "\n".join(table) + "\n" + _TAIL


def _row(one: metrics.Declared) -> str:
    kind = one.kind.__name__.lower()
    name = f"{one.name}_total" if kind == "counter" else one.name
    labels = ", ".join(f"`{label}`" for label in one.labels)
    return f"| `{name}` | {kind} | {labels} | {one.help} |"


if __name__ == "__main__":
    print(page(), end="")
