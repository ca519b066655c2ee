"""The stages of the recipe: host loops. A file is one frozen `Run` from gin, `describe`, and `run`."""
