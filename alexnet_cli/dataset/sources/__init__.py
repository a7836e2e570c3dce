"""Where pictures come from: each module has a function that looks at a source and gives its `Listing`."""
