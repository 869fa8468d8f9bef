"""What a client is made from, whichever way it waits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lorax_spec.client.arguments import GenerateOptions
from lorax_spec.client.connection import Connection, Retry


class ClientBase:
    """A server to call.

    ``target`` is ``host:port`` or ``unix:/path``.  ``timeout`` (seconds, None for none) bounds
    each call, retries included.  ``api_key`` proves to the server who calls; ``api_token`` is what
    the server fetches adapters with.  Any of the ``tls`` arguments turns TLS on: ``tls_ca`` is the
    authority to trust (the system's, where left out), ``tls_cert`` and ``tls_key`` who we are, all
    paths of PEM files.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        timeout: float | None = 60.0,
        api_key: str | None = None,
        api_token: str | None = None,
        headers: Mapping[str, str] | None = None,
        tls: bool = False,
        tls_ca: str | Path | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        retry: Retry | None = None,
    ) -> None:
        self._connection = Connection(
            target=target,
            timeout=timeout,
            retry=retry or Retry(),
            api_key=api_key,
            headers=headers or {},
            tls=tls,
            tls_ca=tls_ca,
            tls_cert=tls_cert,
            tls_key=tls_key,
        )
        self._api_token = api_token

    def _own(self, options: GenerateOptions) -> GenerateOptions:
        """``options``, with this client's token where they bring none."""
        return {"api_token": self._api_token, **options}
