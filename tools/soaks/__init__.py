"""Long runs against one part each, and what they must leave unchanged: `tools/run_soaks.py` runs them."""
