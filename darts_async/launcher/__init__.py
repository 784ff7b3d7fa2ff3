"""Starts a topology, watches it, and winds it down: checks first, then processes, then the summary.

It spawns `python -m actors.<role>` and never imports a role. It must never import torch.
"""
