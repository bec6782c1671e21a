"""Whatever bytes a reader is given, it answers or raises one of our errors: soon, in little memory, never wrongly."""
