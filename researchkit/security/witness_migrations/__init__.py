"""The revisions of a witness's database, oldest first; nothing but schema lives here."""
