"""From labelled pictures to a dataset directory, and back from one: imports only errors, files, machine, paper."""
