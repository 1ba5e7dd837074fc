"""Splits a multipart/form-data body that is already in memory into its parts, as bytes.

Form parsers of web frameworks decode a part without a file name as text, which would spoil a picture sent that way.
"""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

__all__ = ["MAX_PARTS", "split_parts"]

MAX_PARTS = 4096


def split_parts(content_type: str, body: bytes) -> dict[str, bytes]:
    """Parts by name. Raises: ValueError for a body that is not well-formed, or names a part twice or not at all."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise ValueError("content type names no boundary")
    collector = _Collector()
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": collector.begin,
            "on_header_begin": collector.header_begin,
            "on_header_field": collector.header_field,
            "on_header_value": collector.header_value,
            "on_header_end": collector.header_end,
            "on_part_data": collector.data,
            "on_part_end": collector.end,
            "on_end": collector.finish,
        },
    )
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise ValueError(f"body is not well-formed: {error}") from error
    if not collector.finished:
        raise ValueError("body ends before its last boundary")
    return collector.parts


class _Collector:
    """What the parser calls back: one part at a time."""

    def __init__(self) -> None:
        self.parts: dict[str, bytes] = {}
        self.finished = False
        self._name: str | None = None
        self._data: list[bytes] = []
        self._field = bytearray()
        self._value = bytearray()

    def begin(self) -> None:
        self._name = None
        self._data = []

    def header_begin(self) -> None:
        self._field, self._value = bytearray(), bytearray()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            name = parse_options_header(bytes(self._value))[1].get(b"name")
            self._name = name.decode("utf-8", "replace") if name is not None else None

    def data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def end(self) -> None:
        if self._name is None:
            raise ValueError("a part has no name")
        if self._name in self.parts:
            raise ValueError(f"part {self._name[:100]!r} is there twice")
        if len(self.parts) >= MAX_PARTS:
            raise ValueError(f"more than {MAX_PARTS} parts")
        self.parts[self._name] = b"".join(self._data)

    def finish(self) -> None:
        self.finished = True
