"""Papers: each file holds one paper's claim, its recipe and its table, made of the library's pieces. No paper imports another."""
