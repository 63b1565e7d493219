"""``mpreg inspect``: each reads a little, shows it, and goes on."""
