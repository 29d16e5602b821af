"""Run the program `watch`: it turns changes of objects and reports into CloudEvents for the handlers."""
