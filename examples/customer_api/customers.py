"""The customers, each as JSON text: those of the file, then made from their number, the same ones every time."""

from __future__ import annotations

import random
import re
from pathlib import Path

import msgspec

FILE = Path(__file__).with_name("customers.json")
VARIANTS = 4096
"""What customers made by number differ in beside number and email repeats after so many."""
_ID = re.compile(r"^CUST([0-9]{7})$")
_FIRST = ("Ada", "Bruno", "Chiara", "Dmitri", "Élodie", "Farid", "Greta", "Hiro", "Ingrid", "João", "Łucja", "Liam")
_LAST = ("Lindqvist", "Carvalho", "De Luca", "Volkov", "Marchand", "Haddad", "Öberg", "O'Connor", "Weiß", "Raman")
_STREETS = ("Harbour Street", "Mill Lane", "Station Road", "Orchard Way", "Castle Hill", "River Walk", "Market Square")
_TOWNS = ("Northbridge", "Elmstead", "Port Alder", "Greywater", "Summerfield")


class Customers:
    """Numbered from 1. Memory does not grow with their count."""

    def __init__(self, count: int | None = None) -> None:
        """`count` unless all and only those of the file are wanted."""
        raw = msgspec.json.decode(FILE.read_bytes(), type=list[msgspec.Raw])
        self._file = [bytes(each) for each in raw]  # as written there: 1234.50 keeps its zero
        self._count = len(self._file) if count is None else count
        self._variants: list[bytes] = [] if self._count <= len(self._file) else _variants()

    def __len__(self) -> int:
        return self._count

    def page(self, first: int, count: int) -> bytes:
        """The JSON array of `count` customers from number `first` on, or as many as there are."""
        last = min(first + count, self._count + 1)
        split = min(max(first, len(self._file) + 1), last)
        variants, size = self._variants, VARIANTS
        records = self._file[first - 1 : min(split, last) - 1]
        records += [
            b'{"customer_id": "CUST%07d", "email": "customer%d@example.com", %b' % (n, n, variants[n % size])
            for n in range(split, last)
        ]
        return b"[" + b", ".join(records) + b"]"

    def one(self, customer_id: str) -> bytes | None:
        """The JSON object of one customer; None when there is none."""
        found = _ID.match(customer_id)
        number = int(found[1]) if found else 0
        return self.page(number, 1)[1:-1] if 1 <= number <= self._count else None


def _variants() -> list[bytes]:
    """All fields but number and email, without the opening brace."""
    return [_variant(random.Random(number)) for number in range(VARIANTS)]


def _variant(dice: random.Random) -> bytes:
    cents = dice.randint(-99_999, 9_999_999)
    fields = {
        "first_name": dice.choice(_FIRST),
        "last_name": dice.choice(_LAST),
        "phone": f"+1-555-{dice.randint(1000, 9999)}" if dice.random() < 0.9 else None,
        "address": f"{dice.randint(1, 99)} {dice.choice(_STREETS)}, {dice.choice(_TOWNS)}",
        "date_of_birth": f"{dice.randint(1936, 2005)}-{dice.randint(1, 12):02}-{dice.randint(1, 28):02}",
        "account_balance": msgspec.Raw(b"%b%d.%02d" % (b"-" if cents < 0 else b"", *divmod(abs(cents), 100))),
        "created_at": f"20{dice.randint(15, 25)}-{dice.randint(1, 12):02}-{dice.randint(1, 28):02}T08:30:00Z",
    }
    return msgspec.json.encode(fields)[1:]
