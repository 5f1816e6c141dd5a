"""Feature store, runs, trials, warehouse, campaign and evidence. No pages here."""
