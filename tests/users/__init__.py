"""Small programs in the manner of those that users run, and their table."""
