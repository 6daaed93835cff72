"""Personal data in texts, told by form and, where there are any, by check digits. Chinese and Latin writing.

Sources: GB 11643-1999 with ISO 7064 MOD 11-2 (resident identity numbers), ISO/IEC 7812 (Luhn), ISO 13616 (IBAN), ITU-T E.164.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date

#: Full-width figures and signs, one for one, so that places stay.
_NARROW = {0xFF01 + offset: 0x21 + offset for offset in range(94)} | {0x3000: 0x20}
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECK = "10X98765432"


@dataclass(frozen=True, slots=True)
class Found:
    """Personal data at one place of a text."""

    kind: str
    start: int
    end: int


def find(text: str) -> list[Found]:
    """Personal data in a text by their places; none overlaps another."""
    narrow = text.translate(_NARROW)
    taken: list[Found] = []
    for kind, pattern, is_one in _KINDS:
        for match in pattern.finditer(narrow):
            if is_one(match[0]) and not any(match.start() < each.end and each.start < match.end() for each in taken):
                taken.append(Found(kind, match.start(), match.end()))
    return sorted(taken, key=lambda each: each.start)


def masked(text: str, found: list[Found]) -> str:
    """The text with `[kind]` at those places."""
    return "".join(_parts(text, found))


def _parts(text: str, found: list[Found]) -> Iterator[str]:
    at = 0
    for each in found:
        yield text[at : each.start]
        yield f"[{each.kind}]"
        at = each.end
    yield text[at:]


def _is_resident(number: str) -> bool:
    number = number.upper()
    try:
        born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, number[:17], strict=True))
    return 1900 <= born.year <= 2100 and number[0] in "12345678" and _ID_CHECK[total % 11] == number[17]


def _is_card(number: str) -> bool:
    digits = [int(char) for char in number if char.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    first = int("".join(map(str, digits[:2])))
    # Mastercard and Diners, American Express, Visa, Mastercard, Maestro and UnionPay; others begin tickets and part numbers.
    if not (digits[0] in (4, 5) or first in (22, 23, 24, 25, 26, 27, 30, 34, 36, 37, 38, 60, 62, 63, 64, 65, 67)):
        return False
    doubled = [digit if place % 2 == 0 else digit * 2 - 9 * (digit > 4) for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _is_iban(text: str) -> bool:
    plain = text.replace(" ", "")
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def _is_phone(text: str) -> bool:
    return 7 <= sum(char.isdigit() for char in text) <= 15


def _always(_text: str) -> bool:
    return True


#: What has check digits comes first: its figures are then no telephone number. Every repetition is bounded.
_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("id_number", re.compile(r"(?<![0-9A-Za-z])[0-9]{17}[0-9Xx](?![0-9A-Za-z])"), _is_resident),
    ("id_number", re.compile(r"(?<![0-9-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![0-9-])"), _always),
    (
        "iban",
        re.compile(r"(?<![0-9A-Za-z])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![0-9A-Za-z])"),
        _is_iban,
    ),
    ("bank_card", re.compile(r"(?<![0-9.-])[0-9](?:[ -]?[0-9]){12,18}(?![0-9]|\.[0-9])"), _is_card),
    (
        "email",
        re.compile(r"(?<![\w.+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])"),
        _always,
    ),
    ("phone", re.compile(r"(?<![0-9.-])(?:\+?86[ -]?)?1[3-9][0-9][ -]?[0-9]{4}[ -]?[0-9]{4}(?![0-9]|\.[0-9])"), _always),
    ("phone", re.compile(r"(?<![0-9.-])0[0-9]{2,3}-[0-9]{7,8}(?![0-9-])"), _always),
    ("phone", re.compile(r"(?<![0-9A-Za-z])\+[1-9][0-9]{0,2}(?:[ .-]?\(?[0-9]{1,4}\)?){2,6}(?![0-9])"), _is_phone),
    ("phone", re.compile(r"(?<![0-9.-])(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.-])[2-9][0-9]{2}[.-][0-9]{4}(?![0-9-])"), _always),
)
