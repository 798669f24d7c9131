"""The shop's rows: 200,000 of them in five related tables, the same ones every time."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

Row = tuple[Any, ...]
CUSTOMERS, PRODUCTS, ORDERS, REVIEWS = 20_000, 5_000, 50_000, 5_000
THIRD_LINES = 20_000
ITEMS = 2 * ORDERS + THIRD_LINES
TOTAL = CUSTOMERS + PRODUCTS + ORDERS + ITEMS + REVIEWS

FIRST = ("Ada", "Grace", "Edsger", "Åsa", "Łukasz", "Zoë", "José", "Дмитрий", "美咲", "عمر", "Ngọc", "Siân")
LAST = (
    "Lovelace",
    "O'Hara",
    "Müller-Lüdenscheidt",
    "Søndergård",
    "Иванова",
    "山田",
    "Nguyễn",
    "D\u2019Angelo",
    'Q"uote',
)
WORDS = (
    "good",
    "späť",
    "fine\nprint",
    "tab\there",
    "100 %",
    "back\\slash",
    "🎁🎉",
    "naïve",
    "",
    "¿qué?",
    "\u200bthin",
)
COUNTRIES = ("DE", "FR", "PL", "JP", "VN", "US", "EG", "NO")
STATES = ("new", "paid", "shipped", "returned")


def customers() -> Iterator[Row]:
    """id, name, email, country, born, newsletter, balance"""
    dice = random.Random(1)
    for number in range(1, CUSTOMERS + 1):
        born = f"{dice.randint(1930, 2008)}-{dice.randint(1, 12):02}-{dice.randint(1, 28):02}"
        name = f"{dice.choice(FIRST)} {dice.choice(LAST)}"
        balance = dice.uniform(-1e6, 1e6) if number % 7 else None
        yield number, name, f"c{number}@example.org", dice.choice(COUNTRIES), born, number % 3 == 0, balance


def products() -> Iterator[Row]:
    """id, sku, title, price_cents, weight, attributes (JSON), picture (bytes)"""
    dice = random.Random(2)
    for number in range(1, PRODUCTS + 1):
        attributes = json.dumps({"colour": dice.choice(WORDS), "sizes": [1, 2.5, None], "new": number % 2 == 0})
        picture = dice.randbytes(dice.randint(0, 400)) if number % 5 else None
        title = " ".join(dice.choices(WORDS, k=4))
        yield (
            number,
            f"SKU-{number:05}",
            title,
            dice.randint(1, 10**7),
            dice.expovariate(1),
            attributes,
            picture,
        )


def orders() -> Iterator[Row]:
    """id, customer_id, placed_at, state, note"""
    dice = random.Random(3)
    for number in range(1, ORDERS + 1):
        day = f"2025-{dice.randint(1, 12):02}-{dice.randint(1, 28):02}"
        clock = f"{dice.randint(0, 23):02}:{dice.randint(0, 59):02}:{dice.randint(0, 59):02}"
        placed = f"{day} {clock}.{number % 1000:03}+00"
        note = " ".join(dice.choices(WORDS, k=8)) if number % 4 == 0 else None
        yield number, dice.randint(1, CUSTOMERS), placed, dice.choice(STATES), note


def order_items() -> Iterator[Row]:
    """order_id, line, product_id, quantity, price_cents"""
    dice = random.Random(4)
    for order in range(1, ORDERS + 1):
        for line in range(1, 4 if order <= THIRD_LINES else 3):
            yield order, line, dice.randint(1, PRODUCTS), dice.randint(1, 9), dice.randint(1, 10**6)


def reviews() -> Iterator[Row]:
    """id, product_id, customer_id, stars, words"""
    dice = random.Random(5)
    for number in range(1, REVIEWS + 1):
        words = " ".join(dice.choices(WORDS, k=dice.randint(0, 60)))
        yield number, dice.randint(1, PRODUCTS), dice.randint(1, CUSTOMERS), dice.randint(1, 5), words


TABLES: dict[str, Callable[[], Iterator[Row]]] = {
    "customers": customers,
    "products": products,
    "orders": orders,
    "order_items": order_items,
    "reviews": reviews,
}
"""In an order that foreign keys allow."""
