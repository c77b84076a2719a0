"""A mesh of equal nodes that runs tasks and loses none of them."""
