"""How well the protection works: metrics with their intervals, what an infringer would try, and
the protocols and the report that are made of them."""
