"""What the log means: the replicated task table."""
