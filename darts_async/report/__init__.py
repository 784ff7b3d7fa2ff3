"""What came of a run, as one page that a browser opens without a network: gather, draw, write.

`gather` reads run folders into plain data, `charts` turn that into figures, `page` into HTML. Nothing here starts,
changes or asks a run: it works on a copy of a folder, on another machine, and while the run goes on.
"""
