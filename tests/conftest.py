"""What all tests share: how hypothesis searches."""

import os

from hypothesis import settings

# The gate draws the same examples every time; HYPOTHESIS_PROFILE=explore looks further, with new ones each run.
settings.register_profile("gate", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("explore", max_examples=2_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))
