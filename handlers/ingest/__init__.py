"""Records from other systems' APIs and files into collections."""

from handlers.ingest.handler import IngestHandler, IngestRequest, IngestResult

__all__ = ["IngestHandler", "IngestRequest", "IngestResult"]
