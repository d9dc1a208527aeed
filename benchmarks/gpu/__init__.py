"""Everything a GPU is asked, in one command that survives what fails: `make gpu`.

A parent process, which imports nothing but the standard library, runs stages one after
the other (`runner`). Each stage is a process of its own (`stage`) and writes one file.
"""
