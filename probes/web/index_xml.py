"""Index pages in XML: S3's ListBucketResult (Amazon S3 API Reference, ListObjectsV2) and nginx's `<list>`.

expat reads them as they arrive. A DOCTYPE ends it: without one there are no entities to expand.
"""

from collections.abc import Iterable, Iterator
from urllib.parse import unquote_plus
from xml.parsers import expat

from probes.errors import BadAnswer
from probes.web.index_rows import Item, More, Row, WholeBucket, row, shown, stamp, with_last


def xml_rows(chunks: Iterable[bytes], url: str) -> Iterator[Item]:
    """Yield the rows of a page, and `More` or `WholeBucket` last. Raises BadAnswer."""
    page = _XmlPage(url)
    for chunk, final in with_last(chunks):
        page.feed(chunk, final)
        yield from page.take()
        if page.is_whole_bucket:
            yield WholeBucket()
            return
    if page.token:
        yield More(page.token)


class _XmlPage:
    """S3's ListBucketResult, and nginx's <list>. expat knows no namespaces here; a DOCTYPE ends it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.token = ""
        self.is_whole_bucket = False
        self._rows: list[Item] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self._values: dict[str, str] = {}
        self._object: dict[str, str] = {}
        self._parser = parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        parser.buffer_text = True

    def feed(self, chunk: bytes, final: bool) -> None:
        try:
            self._parser.Parse(chunk, final)
        except expat.ExpatError as error:
            why = f"its XML is cut short or broken: {expat.ErrorString(error.code)}"
            raise BadAnswer("list", shown(self.url), why) from None

    def take(self) -> list[Item]:
        taken, self._rows = self._rows, []
        return taken

    def _doctype(self, *_: object) -> None:
        raise BadAnswer("list", shown(self.url), "its XML has a DOCTYPE, which no index page needs")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open and name not in {"ListBucketResult", "list"}:
            raise BadAnswer("list", shown(self.url), "it answers XML that is not an index page")
        if len(self._open) > 16:
            raise BadAnswer("list", shown(self.url), "its XML is nested too deeply")
        self._open.append(name)
        self._text = []
        if name in {"Contents", "CommonPrefixes"} or self._open[0] == "list":
            self._object = dict(attributes)
            delimiter = self._values.get("Delimiter")
            if name in {"Contents", "CommonPrefixes"} and delimiter is None:
                self.is_whole_bucket = True

    def _characters(self, text: str) -> None:
        self._text.append(text)

    def _end(self, name: str) -> None:
        text = "".join(self._text)
        self._text = []
        self._open.pop()
        path = self._open[1:]
        if self._open[:1] == ["list"] and not path and name in {"file", "directory"}:
            size = _integer(self._object.get("size"))
            self._add(row(text, name == "directory", size, stamp(self._object.get("mtime"))))
        elif path in (["Contents"], ["CommonPrefixes"]):
            self._object[name] = text
        elif self._open == ["ListBucketResult"]:
            if name == "Contents":
                key, size = self._object.get("Key", ""), _integer(self._object.get("Size"))
                self._add(self._below_prefix(key, size))
            elif name == "CommonPrefixes":
                self._add(self._below_prefix(self._object.get("Prefix", ""), None))
            else:
                self._values[name] = text
        elif name == "ListBucketResult":
            if "Delimiter" not in self._values:
                self.is_whole_bucket = True
            elif self._values.get("IsTruncated") == "true":
                self.token = self._values.get("NextContinuationToken", "")
                if not self.token:
                    raise BadAnswer("list", shown(self.url), "its list goes on, and it does not say where")

    def _below_prefix(self, key: str, size: int | None) -> Row | None:
        prefix = self._values.get("Prefix", "")
        if self._values.get("EncodingType") == "url":
            key, prefix = (unquote_plus(text, errors="surrogateescape") for text in (key, prefix))
        if not key.startswith(prefix):
            return None
        return row(key[len(prefix) :], key.endswith("/"), size, stamp(self._object.get("LastModified")))

    def _add(self, found: Row | None) -> None:
        if found is not None and not self.is_whole_bucket:
            self._rows.append(found)


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None
