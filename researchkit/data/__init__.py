"""Vendor bytes, raw zone, lake, quality, pins, catalog, archive. No strategy and no statistics here."""
