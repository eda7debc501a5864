"""What is promised of the whole program, tried for as long as one likes: `python -m campaigns`."""
