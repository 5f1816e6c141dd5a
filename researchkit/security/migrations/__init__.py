"""The revisions of the ledger's database, oldest first; nothing but schema lives here."""
