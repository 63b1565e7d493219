"""What is typed: one module for each command, with its options and its help.

They import nothing heavy, so that help and completion are quick. What a command does is in
`mpreg.cli.runs`, in a module of the same name.
"""
