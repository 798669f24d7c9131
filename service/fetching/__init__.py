"""Sources read over HTTP for handlers: many requests at once, patient, bounded in time and size."""

from service.fetching.fetcher import HttpFetcher

__all__ = ["HttpFetcher"]
