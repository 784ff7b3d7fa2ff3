"""A twin of a run: the same actors on virtual time, with models in the place of engine, learner and rewards."""
