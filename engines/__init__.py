"""How database work is carried out: one package per kind of database, plain synchronous Python."""
