"""Requests to the API server as plain JSON: one request, the pages of a list, and errors in words.

The operator and `kubectl nat64` share it, so it knows neither kopf nor any kind of object. It is
synchronous, and every request has a timeout.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import urllib3
from kubernetes import client

Json = dict[str, Any]
"""An object as the API server gives it."""
Timeout = tuple[int, int]
"""Seconds to connect and to answer."""

TROUBLE = (client.ApiException, urllib3.exceptions.HTTPError, OSError)
"""Everything that a request raises. A later try may succeed."""


class Connection:
    """A connection to the API server."""

    def __init__(
        self,
        api: client.ApiClient,
        timeout: Timeout,
        page: int,
        observe: Callable[[str, str], None] = lambda _method, _code: None,
    ) -> None:
        """`page` objects at most come in one answer of a list, which bounds memory. `observe` gets
        the method of each request and its status code, or `error` where no answer came.
        """
        self._api, self._timeout, self._page, self._observe = api, timeout, page, observe
        self.answered = time.monotonic()
        """When a request last ended, well or not."""
        self._lock = threading.Lock()
        self.in_flight = 0
        """Requests that have not ended, also in threads for which nobody waits any more."""

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Json:
        """Make a request. Raises one of TROUBLE; a status other than 2xx is an ApiException."""
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type
        request = self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        code = "error"
        self._count_in_flight(1)
        try:
            response = self._api.call_api(*request, _request_timeout=self._timeout)
            raw = response.read()
            code = str(response.status)
        finally:
            self.answered = time.monotonic()
            self._count_in_flight(-1)
            self._observe(method, code)
        if not 200 <= response.status <= 299:
            error = client.ApiException(status=response.status, reason=response.reason)
            error.body = raw.decode(errors="replace")
            error.headers = response.getheaders()
            raise error
        parsed: Json = json.loads(raw) if raw else {}
        return parsed

    def _count_in_flight(self, change: int) -> None:
        with self._lock:
            self.in_flight += change

    def items(self, path: str, query: Mapping[str, str] | None = None) -> Iterator[Json]:
        """The objects of a list, read page by page. Raises one of TROUBLE."""
        query = {**(query or {}), "limit": str(self._page)}
        while True:
            page = self.request("GET", path, query)
            yield from page.get("items") or ()
            more = page["metadata"].get("continue")
            if not more:
                return
            query["continue"] = more


def say(error: Exception) -> str:
    """An error as a sentence: the API server's own where it gave one."""
    if not isinstance(error, client.ApiException):
        return str(error) or type(error).__name__
    try:
        message: str = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        return f"the API server answers {error.status} {error.reason or 'without a reason'}"
    return message
