"""Reading and importing CALVIN, with an unpickler that runs no code."""
