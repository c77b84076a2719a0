"""Who is here and how they are: heartbeats heard, heartbeats missed, links that broke. Suggests; the ledger decides."""
