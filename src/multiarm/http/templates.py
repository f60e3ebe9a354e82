"""Which route a path belongs to, for requests that are refused before the framework looks at them too."""

from collections.abc import Iterable

UNMATCHED = "unmatched"


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
