"""Documents with a generated part between two marks."""

from __future__ import annotations


def put_between(text: str, name: str, content: str) -> str:
    """The document with ``content`` between its marks of that name.

    Args:
        text: The document, with ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` once each.
        name: Of the marks.
        content: What is generated, without a last newline.
    """
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    head, rest = text.split(begin)
    return f"{head}{begin}{content}\n{end}{rest.split(end)[1]}"
