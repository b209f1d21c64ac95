"""The files of the research plan, a module a phase; the modules' names give the order in which they are listed."""
