"""What becomes of a run: a server that answers for raw rows, and the page in front of it."""
