"""The names other systems gave to what a mesh does: faces of the library, that hold nothing of their own."""
