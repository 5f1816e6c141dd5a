"""Demo and verification. No pages here."""
