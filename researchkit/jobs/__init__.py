"""Job specifications and the runner that executes notebooks. No pages here."""
