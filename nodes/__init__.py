"""The node process: the shell around mesh.node.Node."""
