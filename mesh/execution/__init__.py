"""The receiving end of a lease: what this node runs, and what it still owes the ledger."""
