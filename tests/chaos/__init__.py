"""`make chaos`: a database through hundreds of kills, with every acknowledged transaction counted. See __main__.py."""
