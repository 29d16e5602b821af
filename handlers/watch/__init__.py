"""The program `watch`: turns changes of objects and reports into CloudEvents for the handlers."""
