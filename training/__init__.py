"""How the shipped classifiers were made: data, training, export and check.

Not part of the installed package. Start with ``python -m training.make_bank --help``.
"""
