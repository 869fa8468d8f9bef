"""Clients of a server: the same calls, blocking or awaited."""

from lorax_spec.client.aio import AsyncClient
from lorax_spec.client.connection import Retry
from lorax_spec.client.sync import Client

__all__ = ["AsyncClient", "Client", "Retry"]
