"""`make demo`: a cluster that fails over on this machine, with a client watching. See __main__.py."""
