"""Calculations: independent or on named stacks, with histories on any connection."""
