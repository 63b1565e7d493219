"""What the commands do. One module for each, of the same name as in `mpreg.cli.commands`."""
