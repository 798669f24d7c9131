"""Properties of a JSON Schema: which are understood, the field each becomes, the rules its values keep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from engines.records.fields import LARGEST_PRECISION, Field, Kind, Value
from handlers.base import Fault
from handlers.collections.patterns import PatternRefused, python_pattern
from handlers.collections.values import SHOWN_PRECISION, Unfit, from_json

FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
LONGEST_TEXT = 10 * 1024 * 1024
IGNORED = frozenset({"title", "description", "examples", "deprecated", "readOnly", "writeOnly", "$comment"})
"""Words for people; they say nothing about which records are valid."""
_TYPES = ("string", "integer", "number", "boolean", "object", "array")
_TEXT_FORMATS: Mapping[str, tuple[str, int, str]] = {
    "email": (r"^[^@\s]{1,64}@[^@\s.]+(\.[^@\s.]+)*$", 254, "an e-mail address"),
    "uuid": (r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", 36, "a UUID"),
    "uri": (r"^[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]+$", 8192, "a URI"),
}
"""The expression, the length that is understood without maxLength, and what it is called."""
_VALUE_FORMATS: Mapping[str, Kind] = {"date": "date", "date-time": "timestamp", "decimal": "decimal"}
_NOW = "now"
_ALWAYS = frozenset({"type", "enum", "const", "default"})
_NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "precision", "scale"})
_TAKEN: Mapping[Kind, frozenset[str]] = {
    "text": _ALWAYS | {"format", "maxLength", "minLength", "pattern"},
    "integer": _ALWAYS | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "decimal": _ALWAYS | _NUMBERS | {"format"},
    "float": _ALWAYS | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": _ALWAYS,
    "date": _ALWAYS | {"format"},
    "timestamp": _ALWAYS | {"format"},
    "json": frozenset({"type", "default"}),
}
Number = int | float | Decimal


@dataclass(frozen=True, slots=True)
class Property:
    """One field with what the schema says about its values beyond what a column can keep."""

    field: Field
    needed: bool = False
    """A record without it is none; a default makes up for it."""
    nullable: bool = True
    """It may come as null; unless `null` this says as much as leaving it out."""
    null: bool = True
    """Null is a value of its own."""
    min_length: int | None = None
    pattern: str | None = None
    """For `re.search`."""
    shape: str | None = None
    """The expression of its format, and what that is called."""
    shape_name: str = ""
    least: Number | None = None
    most: Number | None = None
    above: Number | None = None
    below: Number | None = None
    allowed: tuple[Value, ...] | None = None
    default: Value = None
    has_default: bool = False

    def value(self, given: Any) -> Value:
        """What engines take for a JSON value. Raises `handlers.collections.values.Unfit`."""
        if given is None:
            if self.nullable:
                return None if self.null else self.default
            raise Unfit("Null is not allowed here.")
        value = from_json(self.field, given)
        why = self.refusal(value)
        if why is not None:
            raise Unfit(why)
        return value

    def refusal(self, value: Value) -> str | None:
        """Why a value of the field's kind is none of the property's."""
        if self.allowed is not None and value not in self.allowed:
            return "The value is none of those the schema lists."
        if isinstance(value, str):
            return self._text_refusal(value)
        if self.least is not None and value < self.least:
            return f"The value must be at least {self.least}."
        if self.most is not None and value > self.most:
            return f"The value must be at most {self.most}."
        if self.above is not None and value <= self.above:
            return f"The value must be greater than {self.above}."
        if self.below is not None and value >= self.below:
            return f"The value must be less than {self.below}."
        return None

    def _text_refusal(self, value: str) -> str | None:
        if self.min_length is not None and len(value) < self.min_length:
            return f"The text has {len(value)} characters; at least {self.min_length} are needed."
        if self.shape is not None and not re.search(self.shape, value):
            return f"The text is not {self.shape_name}."
        if self.pattern is not None and not re.search(self.pattern, value):
            return "The text does not match the schema's pattern."
        return None


@dataclass(slots=True)
class Understanding:
    """Reads the properties of one record's schema; gathers what is wrong."""

    required: frozenset[str]
    key: str | None
    """The key's name, if it is known: a text that is a key has a length."""
    faults: list[Fault] = field(default_factory=list)

    KEY_LENGTH = 255

    def property(self, name: str, schema: Any, pointer: str) -> Property | None:
        """None: it is not understood, and the faults say why."""
        before = len(self.faults)
        if not FIELD_NAME.match(name):
            self._fault(pointer, "A field's name is a letter or _, then at most 62 letters, digits and _.")
        if not isinstance(schema, Mapping):
            self._fault(pointer, "Expected an object, the schema of this field.")
            return None
        kind, null = self._kind(schema, pointer)
        if kind is None or len(self.faults) > before:
            return None
        self._refuse_others(schema, kind, pointer)
        needed = name in self.required
        found = Property(
            Field(name, kind, required=needed and not null), needed=needed, nullable=null or not needed, null=null
        )
        found = self._with_numbers(self._with_text(found, schema, pointer), schema, pointer)
        if len(self.faults) > before:
            return None
        found = self._with_default(self._with_allowed(found, schema, pointer), schema, pointer)
        return found if len(self.faults) == before else None

    def _fault(self, pointer: str, detail: str) -> None:
        self.faults.append(Fault(pointer, detail))

    def _kind(self, schema: Mapping[str, Any], pointer: str) -> tuple[Kind | None, bool]:
        said = schema.get("type")
        types = [said] if isinstance(said, str) else said
        if not isinstance(types, list) or not all(isinstance(one, str) for one in types):
            self._fault(f"{pointer}/type", f'Give the type: {", ".join(_TYPES)}, or [TYPE, "null"].')
            return None, False
        others = [one for one in types if one != "null"]
        if len(others) != 1 or others[0] not in _TYPES or len(types) > 2:
            self._fault(f"{pointer}/type", f'The type is one of {", ".join(_TYPES)}, or that and "null".')
            return None, False
        return self._kind_of(others[0], schema, pointer), len(types) > 1

    def _kind_of(self, kind: str, schema: Mapping[str, Any], pointer: str) -> Kind | None:
        form = schema.get("format")
        if form is not None and kind in ("string", "number"):
            known = (*_TEXT_FORMATS, *_VALUE_FORMATS) if kind == "string" else ("decimal",)
            if form not in known:
                self._fault(f"{pointer}/format", f"This format is not checked; a {kind}'s are {', '.join(known)}.")
                return None
        if kind == "string":
            return _VALUE_FORMATS.get(str(form), "text")
        if kind == "number":
            exact = form == "decimal" or not schema.keys().isdisjoint({"precision", "scale", "multipleOf"})
            return "decimal" if exact else "float"
        kinds: Mapping[str, Kind] = {"integer": "integer", "boolean": "boolean", "object": "json", "array": "json"}
        return kinds[kind]

    def _refuse_others(self, schema: Mapping[str, Any], kind: Kind, pointer: str) -> None:
        for word in schema:
            if word not in _TAKEN[kind] and word not in IGNORED:
                self._fault(
                    f"{pointer}/{escaped(word)}",
                    f"{word!r} says nothing that FlexDB checks for values of this type ({kind}); leave it out.",
                )

    # -- texts

    def _with_text(self, found: Property, schema: Mapping[str, Any], pointer: str) -> Property:
        if found.field.kind != "text":
            return found
        longest = self._count(schema, "maxLength", pointer, 1, LONGEST_TEXT)
        shortest = self._count(schema, "minLength", pointer, 0, LONGEST_TEXT)
        form = str(schema.get("format"))
        if form in _TEXT_FORMATS:
            expression, length, called = _TEXT_FORMATS[form]
            longest = longest or length
            found = replace(found, shape=expression.removesuffix("$") + r"\Z", shape_name=called)
        if found.field.name == self.key:
            longest, shortest = longest or self.KEY_LENGTH, max(shortest or 0, 1)
            if longest > self.KEY_LENGTH:
                self._fault(f"{pointer}/maxLength", f"A key has at most {self.KEY_LENGTH} characters.")
        if longest is not None and shortest is not None and shortest > longest:
            self._fault(f"{pointer}/minLength", "This is more than the greatest length.")
        pattern = schema.get("pattern")
        if pattern is not None:
            found = replace(found, pattern=self._pattern(pattern, longest, pointer))
        return replace(found, field=replace(found.field, max_length=longest), min_length=shortest or None)

    def _pattern(self, pattern: Any, longest: int | None, pointer: str) -> str | None:
        try:
            if not isinstance(pattern, str):
                raise PatternRefused("Expected a string, a regular expression.")
            return python_pattern(pattern, longest)
        except PatternRefused as error:
            self._fault(f"{pointer}/pattern", str(error))
            return None

    def _count(self, schema: Mapping[str, Any], word: str, pointer: str, least: int, most: int) -> int | None:
        said = schema.get(word)
        if said is None and word not in schema:
            return None
        if isinstance(said, bool) or not isinstance(said, int) or not least <= said <= most:
            self._fault(f"{pointer}/{word}", f"Expected an integer from {least} to {most}.")
            return None
        return said

    # -- numbers

    def _with_numbers(self, found: Property, schema: Mapping[str, Any], pointer: str) -> Property:
        if found.field.kind == "decimal":
            found = replace(found, field=self._with_digits(found.field, schema, pointer))
        if found.field.kind not in ("integer", "decimal", "float"):
            return found
        limits = {word: self._limit(schema, word, found.field, pointer) for word in sorted(_NUMBERS - {"multipleOf"})}
        return replace(
            found,
            least=limits["minimum"],
            most=limits["maximum"],
            above=limits["exclusiveMinimum"],
            below=limits["exclusiveMaximum"],
        )

    def _limit(self, schema: Mapping[str, Any], word: str, field: Field, pointer: str) -> Number | None:
        if word not in schema or word in ("precision", "scale"):
            return None
        said = schema[word]
        if isinstance(said, bool) or not isinstance(said, int | float | Decimal):
            self._fault(f"{pointer}/{word}", "Expected a number.")
            return None
        exact = Decimal(repr(said)) if isinstance(said, float) else Decimal(said)
        if field.kind == "float" and exact.is_finite():
            return float(said)
        if not exact.is_finite() or exact.adjusted() > LARGEST_PRECISION:
            self._fault(f"{pointer}/{word}", f"Expected a number of at most {LARGEST_PRECISION} digits.")
            return None
        return int(exact) if exact == exact.to_integral_value() else exact

    def _with_digits(self, field: Field, schema: Mapping[str, Any], pointer: str) -> Field:
        precision = self._count(schema, "precision", pointer, 1, LARGEST_PRECISION)
        scale = self._count(schema, "scale", pointer, 0, LARGEST_PRECISION)
        if "multipleOf" in schema:
            behind = _digits_behind(schema["multipleOf"])
            if behind is None:
                self._fault(f"{pointer}/multipleOf", "Only powers of ten are understood: 1, 0.1, 0.01 …")
                return field
            if scale is not None and scale != behind:
                self._fault(f"{pointer}/scale", "This is another number of digits than multipleOf says.")
            scale, precision = behind, precision or max(SHOWN_PRECISION, behind)
        if precision is None and scale is None:
            return field
        if precision is None or scale is None or scale > precision:
            self._fault(pointer, "Give `precision` (all digits) with `scale` (those behind the point, not more).")
            return field
        return replace(field, precision=precision, scale=scale)

    # -- values

    def _with_allowed(self, found: Property, schema: Mapping[str, Any], pointer: str) -> Property:
        for word in ("enum", "const"):
            if word not in schema:
                continue
            said = schema[word] if word == "enum" else [schema[word]]
            if not isinstance(said, list) or not said:
                self._fault(f"{pointer}/{word}", "Expected an array of values.")
                continue
            values = [self._checked(found, one, f"{pointer}/{word}") for one in said if one is not None]
            found = replace(found, allowed=tuple(values))
        return found

    def _with_default(self, found: Property, schema: Mapping[str, Any], pointer: str) -> Property:
        if "default" not in schema:
            return found
        said = schema["default"]
        if found.field.kind == "timestamp" and said == _NOW:
            return replace(found, field=replace(found.field, stamped=True), needed=False, nullable=True)
        value = self._checked(found, said, f"{pointer}/default")
        return replace(found, field=replace(found.field, default=value), needed=False, default=value, has_default=True)

    def _checked(self, found: Property, said: Any, pointer: str) -> Value:
        try:
            return found.value(said)
        except Unfit as error:
            self._fault(pointer, str(error))
            return None


def _digits_behind(step: Any) -> int | None:
    """How many digits behind the point a step of a power of ten leaves."""
    if isinstance(step, bool) or not isinstance(step, int | float | Decimal) or not step > 0:
        return None
    sign, digits, exponent = Decimal(repr(step) if isinstance(step, float) else step).normalize().as_tuple()
    if sign or digits != (1,) or not isinstance(exponent, int) or not -LARGEST_PRECISION <= exponent <= 0:
        return None
    return -exponent


def escaped(name: str) -> str:
    """As part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
