"""Jobs of several processes in which something goes wrong, at random."""
