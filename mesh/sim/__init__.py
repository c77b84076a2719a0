"""The whole mesh in one thread, under a seeded clock, network and disk. Same seed, same run, bit for bit."""
