# SPDX-License-Identifier: Apache-2.0
"""Reads a list of the API page by page, all pages of one resourceVersion."""

import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus

from podtally.kube.http import ApiError
from podtally.kube.model import ListPage

_GROWTH = 4  # of a page, after a list that took longer than its token lived


class PagedLister:
    """Lists one resource; ``fetch`` gets and decodes the page at a target (path and query)."""

    def __init__(
        self,
        path: str,
        fetch: Callable[[str], ListPage],
        page_objects: int,
        field_selector: str = "",
    ) -> None:
        self._path = path
        self._fetch = fetch
        self._field_selector = field_selector
        self._page_objects = self._first_page_objects = page_objects

    def pages(self) -> Iterator[ListPage]:
        """Yield the pages of one list; raise what ``fetch`` does.

        An ApiError with status 410 says that the token has expired. The server would continue
        with its present objects, but changes to the pages before would be missed (API concepts,
        "Retrieving large results sets in chunks"): list again. The pages are larger then.
        """
        token, more = "", True
        while more:
            query = {"limit": str(self._page_objects)} | ({"continue": token} if token else {})
            try:
                page = self._fetch(self.target(query))
            except ApiError as error:
                if token and error.code == HTTPStatus.GONE:
                    self._page_objects *= _GROWTH
                raise
            yield page
            token = page.continue_token
            more = bool(token)
        self._page_objects = self._first_page_objects

    def target(self, query: Mapping[str, str]) -> str:
        """Return path and query of a request for the resource."""
        fields = {"fieldSelector": self._field_selector} if self._field_selector else {}
        return f"{self._path}?{urllib.parse.urlencode({**query, **fields})}"
