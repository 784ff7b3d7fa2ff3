"""Runs that are killed whole and taken up again: started, struck down, read back and compared."""
