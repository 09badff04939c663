"""What the two command lines share. Imports click at the most, so that `--help` answers at once."""
