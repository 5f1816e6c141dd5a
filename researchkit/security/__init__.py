"""Identity, keys, policy, ledger and durable writes. No market data here."""
