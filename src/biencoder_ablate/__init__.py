"""biencoder-ablate: does this part of my head earn its place?"""

__version__ = "0.2.0"
