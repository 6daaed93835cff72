"""XML of strangers, without what makes it dangerous: entities, external references."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelworks.contract.errors import InvalidData, MissingExtra

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def parse_xml(content: bytes, place: str) -> Element:
    """The root of a document.

    Raises:
        InvalidData: it is no XML, or declares entities (which could grow without end, or name files).
    """
    try:
        import defusedxml
        from defusedxml.ElementTree import ParseError, fromstring
    except ModuleNotFoundError as error:
        raise MissingExtra.of("defusedxml", "sources") from error
    try:
        root: Element = fromstring(content)
    except defusedxml.DefusedXmlException as error:
        raise InvalidData(
            f"{place} declares entities, which are not read.", hint="Have it written without a DTD.", code="unsafe_markup"
        ) from error
    except (ParseError, ValueError, LookupError) as error:
        raise InvalidData(
            f"{place} is not well-formed XML: {error}.", hint="Check that it is the address of a feed or a map."
        ) from error
    return root
