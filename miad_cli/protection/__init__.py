"""How the files of one run are protected: what was asked for, with what it is done, what earlier
runs left, and what becomes of one file after the other, in one process or several."""
