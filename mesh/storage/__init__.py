"""What survives a crash: the log store and the ledger store, on SQLite."""
