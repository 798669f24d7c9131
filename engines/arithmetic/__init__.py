"""Arithmetic with whole and decimal numbers of any size."""

from engines.arithmetic.engine import ArithmeticEngine

__all__ = ["ArithmeticEngine"]
