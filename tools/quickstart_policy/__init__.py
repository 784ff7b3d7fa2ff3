"""How the quickstart policy is made: a noisy teacher, a tokenizer, a training loop, a sampler and a report.

Run by people through `tools/make_quickstart_policy.py`; imported by nothing in the library.
"""
