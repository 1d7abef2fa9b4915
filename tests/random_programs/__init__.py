"""Random programs, run on plain torch and on the mesh, compared bit for bit."""
