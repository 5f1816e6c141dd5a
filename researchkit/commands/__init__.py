"""Commands: a table and an exit code around a function of the library. No logic here."""
