"""The checker of shapes and types that runs while tests do; it lets an int stand for a float, as PEP 484 does."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
