"""What is kept, and where: artifacts, tables, runs."""
