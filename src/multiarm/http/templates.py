"""Which route a path belongs to, for requests that are refused before the framework looks at them too."""

import re
from collections.abc import Iterable

from multiarm.domain.arm import ID_PATTERN

UNMATCHED = "unmatched"
OF_ONE = "/v1/{experiment_id}"
IS_ID = re.compile(ID_PATTERN)


class Templates:
    """Those of all routes, such as `/v1/{experiment_id}/draw`. A look-up takes about as long as splitting the path."""

    def __init__(self, templates: Iterable[str]) -> None:
        self._fixed: dict[bytes, str] = {}
        self._root = Node()
        for template in templates:
            if "{" not in template:
                self._fixed[template.encode()] = template
                continue
            node = self._root
            for segment in template.split("/"):
                node = node.children.setdefault(b"" if segment.startswith("{") else segment.encode(), Node())
            node.template = template

    def of(self, path: bytes) -> str:
        """The template that a canonical path fits, whatever the method; UNMATCHED where there is none."""
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed
        node = self._root
        for segment in path.split(b"/"):
            following = node.children.get(segment) or node.children.get(b"")
            if following is None:
                return UNMATCHED
            node = following
        return node.template


class Node:
    """Where a path can go on: by the next segment's name, or with any other by b""."""

    __slots__ = ("children", "template")

    def __init__(self) -> None:
        self.children: dict[bytes, Node] = {}
        self.template = UNMATCHED


def experiment_in(path: bytes, route: str) -> str | None:
    """Which experiment a path of that route is about; None where it names none, or what could be no id."""
    if not route.startswith(OF_ONE):
        return None
    named = path.split(b"/", 3)[2].decode("latin-1")
    return named if IS_ID.match(named) else None
