"""Who is to be forgotten, and who must not be."""
