"""Documents to text: each format by a well-kept library, in processes of their own."""

from services.extractor.adapters.conversion.converter import Converted, DocumentConverter

__all__ = ["Converted", "DocumentConverter"]
