"""Router nodes: which gateway nodes serve, and which clients go to which."""
